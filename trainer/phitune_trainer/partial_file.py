"""A file of the hub while it arrives: it goes on where it was cut off; its checksum is checked at the end."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from phitune_trainer.errors import writing_to


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """What the hub says of a file."""

    path: str
    """Relative to the repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of the content; known for large files, which lie in LFS."""
    blob: str | None
    """SHA-1 of git's blob with this content; known for small files."""

    @property
    def has_checksum(self) -> bool:
        """Whether it can be told from another file of the same name and size."""
        return self.sha256 is not None or self.blob is not None


class PartialFile:
    """The beginning of a file on the volume.

    Bytes are written at their place, never appended to whatever is there: should a process that was cut off
    come back and write, too, it writes the same bytes to the same places. `check` is called before anything
    is changed, and raises where another process has taken over.
    """

    def __init__(self, path: Path, wanted: HubFile, check: Callable[[], None]) -> None:
        self.wanted = wanted
        self._check = check
        self.size = 0
        """Bytes that are there."""
        self._path = path
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o664), "r+b", buffering=0)
        self._read()
        if self.size > wanted.size:
            self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        """Add bytes at the end. An OSError names the file."""
        self._check()
        with writing_to(self._path):
            left = memoryview(piece)
            while left:
                left = left[self._file.write(left) :]
        self._digest.update(piece)
        self.size += len(piece)

    def restart(self) -> int:
        """Forget what is there; how many bytes that was."""
        self._check()
        forgotten, self.size = self.size, 0
        self._digest = self._new_digest()
        self._file.seek(0)
        self._file.truncate()
        return forgotten

    def finish(self, *, reread: bool) -> str | None:
        """Put the bytes on the disk; what is wrong with them, or None if they are those of the hub.

        `reread` what lies there rather than trust what was written: where another process may have written.
        """
        with writing_to(self._path):
            os.fsync(self._file.fileno())
        if reread:
            self._file.seek(0)
            self._read()
        expected = self.wanted.sha256 or self.wanted.blob
        if self.size != self.wanted.size:
            return f"{self.size:,} bytes came, {self.wanted.size:,} were expected"
        if expected is not None and self._digest.hexdigest() != expected:
            return f"checksum {self._digest.hexdigest()}, expected {expected}"
        return None

    def _read(self) -> None:
        """Take what lies there from the place on, which is the beginning, for the content."""
        self.size, self._digest = 0, self._new_digest()
        while piece := self._file.read(2**20):
            self._digest.update(piece)
            self.size += len(piece)

    def _new_digest(self) -> "hashlib._Hash":
        if self.wanted.sha256 is not None or self.wanted.blob is None:
            return hashlib.sha256()
        header = f"blob {self.wanted.size}\0".encode()
        return hashlib.sha1(header, usedforsecurity=False)
