"""What the operator wrote, by the API server's own audit log."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Write:
    """One request of the operator that may change something."""

    verb: str
    resource: str
    subresource: str
    name: str
    """Of the object; of a new Event or pod it may be empty."""

    @property
    def is_status(self) -> bool:
        """Whether it is of a FineTuneJob's status."""
        return self.resource == "finetunejobs" and self.subresource == "status"

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'/' + self.subresource if self.subresource else ''}"


class AuditLog:
    """Reads on from where it has read to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[Write]:
        """The writes since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole, _, _ = data.rpartition(b"\n")
        self._offset += len(whole) + 1 if whole else 0
        return list(read(whole.decode().splitlines()))


def read(lines: list[str]) -> Iterator[Write]:
    """The writes of an audit log's lines, but for the Lease's, which come with time and not with jobs."""
    for line in lines:
        event = json.loads(line)
        ref = event.get("objectRef") or {}
        if ref.get("resource") != "leases":
            yield Write(
                verb=event["verb"],
                resource=str(ref.get("resource", "")),
                subresource=str(ref.get("subresource", "")),
                name=str(ref.get("name", "")),
            )


def in_words(writes: list[Write]) -> str:
    """What they were, most frequent first."""
    counted = Counter(map(str, writes)).most_common()
    return ", ".join(f"{times} {what}" for what, times in counted) or "none"
