"""Which steps of a run count: those on the way from its first start to its newest one.

A start continues from a checkpoint; what an earlier start trained beyond that checkpoint is left behind
(incarnation.py has the records). Nothing here reads files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class StartRecord:
    """start.json of one start."""

    number: int
    started_at: str
    host: str
    attempt: int
    origin: tuple[int, int] | None
    """The start whose checkpoint it continues from, and its step; None for the run's own beginning."""

    @classmethod
    def of(cls, number: int, record: Mapping[str, Any]) -> Self:
        """From the file's content. KeyError, TypeError or ValueError where that is something else."""
        origin = record["from"]
        return cls(
            number=number,
            started_at=str(record.get("startedAt", "")),
            host=str(record.get("host", "")),
            attempt=int(record.get("attempt", 1)),
            origin=None if origin is None else (int(origin["incarnation"]), int(origin["step"])),
        )


@dataclass(frozen=True)
class Segment:
    """The steps of one start that count: those after `after`, up to and with `last`."""

    start: int
    after: int
    last: int | None
    """None: all that it takes."""

    def holds(self, step: int) -> bool:
        """Whether a step is one of them."""
        return self.after < step and (self.last is None or step <= self.last)


def line_of(starts: Mapping[int, StartRecord]) -> list[Segment]:
    """The segments, oldest first; none without starts. A record that leads nowhere ends the line there."""
    found = []
    number: int | None = max(starts, default=None)
    last: int | None = None
    while number is not None and number in starts:
        origin = starts[number].origin
        found.append(Segment(number, origin[1] if origin else 0, last))
        if origin is None or origin[0] >= number:
            break
        number, last = origin
    return found[::-1]


def steps_of(segment: Segment, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a segment's own start that count."""
    return [row for row in rows if segment.holds(row["step"])]
