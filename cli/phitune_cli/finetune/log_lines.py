"""Lines of many logs as one: whose each is, in the order in which they were written. Pure."""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

from phitune_operator import names
from phitune_operator.kinds import Object, labels_of
from phitune_trainer.plain_text import inert

PREPARE = "prepare"
_WORKER: Final = re.compile(r"-worker-([0-9]+)$")
"""Ends the names of the training-operator's pods; those of an indexed Job end in random characters."""


@dataclass(frozen=True, order=True)
class Source:
    """Whose log it is. Attempts count from 1; 0 is the preparation of model and data."""

    attempt: int
    rank: int

    def __str__(self) -> str:
        return PREPARE if self.attempt == 0 else f"{self.attempt}/{self.rank}"


class Line(NamedTuple):
    """A line, without the time before it."""

    time: str
    source: Source
    text: str

    def shown(self) -> str:
        """With its source before it, and nothing in it that a terminal would act upon."""
        text = inert(self.text).removeprefix(f"[rank {self.source.rank}] ")
        return f"[{self.source}] {text}"


def source_of(pod: Object, processes_per_node: int) -> Source | None:
    """Whose log a pod of a job has: that of the first rank in it; None for what is no pod of a job."""
    labels = labels_of(pod)
    if labels.get(names.LABEL_ROLE) == names.ROLE_PREPARE:
        return Source(0, 0)
    attempt = labels.get(names.LABEL_ATTEMPT, "")
    if labels.get(names.LABEL_ROLE) != names.ROLE_TRAINER or not attempt.isdecimal():
        return None
    node_rank = _node_rank(labels, pod["metadata"]["name"])
    return None if node_rank is None else Source(int(attempt), node_rank * processes_per_node)


def _node_rank(labels: Mapping[str, str], name: str) -> int | None:
    if names.is_rank_zero(labels):
        return 0
    index = labels.get(names.LABEL_INDEX, "")
    if index.isdecimal():
        return int(index)
    worker = _WORKER.search(name)
    return int(worker[1]) + 1 if worker else None


def line_of(source: Source, raw: str) -> Line:
    """A line as the API server sends it: the time, a blank, the text."""
    time, _, text = raw.partition(" ")
    return Line(time, source, text)


def merged(logs: Mapping[Source, Iterable[str]]) -> Iterator[Line]:
    """All lines by their times; those of one log stay in its order, and attempts follow each other.

    A log's own times may stand still or jump back with a node's clock: only its next line is compared.
    """
    for attempt in sorted({source.attempt for source in logs}):
        sources = sorted(source for source in logs if source.attempt == attempt)
        streams = [map(partial(line_of, source), logs[source]) for source in sources]
        yield from heapq.merge(*streams, key=attrgetter("time"))
