"""The numbers of one start on the volume: metrics.jsonl, and the same for TensorBoard.

A volume that takes no more of them must not stop the training, so nothing here raises for it. Files are
opened for each write: nothing is lost in a buffer when a rank ends at once.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from phitune_trainer.run_layout import IncarnationFolder
from phitune_trainer.strict_json import to_json

_TAGS: Final = {
    "loss": "train/loss",
    "gradNorm": "train/gradNorm",
    "learningRate": "train/learningRate",
    "imagesPerSecond": "speed/imagesPerSecond",
    "tokensPerSecond": "speed/tokensPerSecond",
    "mfu": "speed/mfu",
    "memoryBytes": "memory/bytes",
}
"""Names in a line of metrics.jsonl, and what TensorBoard calls them."""


class StepFiles:
    """Rank 0's files; `say` hears once where they can no longer be written."""

    def __init__(self, folder: IncarnationFolder, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._has_complained = False
        self._num_event_files = 0
        self._event_file: Path | None = None

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add steps: a line of metrics.jsonl each. `time` is seconds since 1970."""
        metrics = self._folder.metrics
        with self._trying(metrics), metrics.open("a", encoding="utf-8") as file:
            file.write("".join(to_json(row) + "\n" for row in rows))
        self._add_events(
            _event(row["step"], row["time"], {_TAGS[name]: row.get(name) for name in _TAGS}) for row in rows
        )

    def add_scores(self, scores: Mapping[str, Any]) -> None:
        """Add an evaluation, as metrics.json has it."""
        named = {scores["metric"]: scores, **scores["details"]}
        tags = {
            f"score/{name}{suffix}": found[field]
            for name, found in named.items()
            for field, suffix in (("value", ""), ("low", "/low"), ("high", "/high"))
        }
        self._add_events([_event(scores["step"], time.time(), tags)])

    def _add_events(self, events: Iterable[Event]) -> None:
        with self._trying(self._folder.tensorboard):
            if self._event_file is None:
                self._folder.tensorboard.mkdir(exist_ok=True)
                name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._num_event_files}"
                self._event_file = self._folder.tensorboard / name
                self._num_event_files += 1
                events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]
            with self._event_file.open("ab") as file:
                file.write(b"".join(map(_record, events)))

    @contextmanager
    def _trying(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._has_complained:
                self._say(f"warning: steps are missing from {path}: {error.strerror}; training goes on")
            self._has_complained = True
            if path == self._folder.tensorboard:
                # What follows half an event would not be read: the next one begins another file.
                self._event_file = None


def _event(step: int, at: float, values: Mapping[str, float | None]) -> Event:
    """Numbers of one step; those that are not known are left out."""
    known = [Summary.Value(tag=tag, simple_value=one) for tag, one in values.items() if one is not None]
    return Event(step=step, wall_time=at, summary=Summary(value=known))


def _record(event: Event) -> bytes:
    """An event as a file holds it: its length and its bytes, each with a checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join(
        [length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))]
    )
