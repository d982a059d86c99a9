"""What a process does to the files of a folder, one operation at a time, seen from inside the process.

The functions of `os` and `open` that change files are replaced by ones that do the same and tell of it, so
that it is the code under test that decides what is done, and in which order. A `before` may raise (the volume
is full), or wait (another process goes first).
"""

from __future__ import annotations

import builtins
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Operation:
    """One change of the folder; paths are relative to it."""

    kind: str
    """mkdir, create, truncate, write, fsync, rename, unlink, rmdir, or said: what a run told its user."""
    path: str = ""
    to: str = ""
    """New path of a rename."""
    content: bytes = b""
    """What is added by a write, at the end."""
    at: int = 0
    """When, on the clock that all processes of this machine share."""


Before = Callable[[Operation], None]


class Journal:
    """The operations under `root` so far, in order, by any thread of this process."""

    def __init__(self, root: Path, before: Before) -> None:
        self.root = root.resolve()
        self.operations: list[Operation] = []
        self._before = before
        self._lock = threading.RLock()

    def say(self, what: str) -> None:
        """Note down what a user was told at this point."""
        self.operations.append(Operation("said", content=what.encode(), at=time.monotonic_ns()))

    def relative(self, path: Any, dir_fd: int | None = None) -> str | None:
        """A path as operations have it; None where it is not under the root."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        absolute = Path(os.path.abspath(path))
        return str(absolute.relative_to(self.root)) if absolute.is_relative_to(self.root) else None

    def do(self, kind: str, path: str | None, action: Callable[[], Any], **more: Any) -> Any:
        """Do it, and note it down if it went well."""
        if path is None:
            return action()
        operation = Operation(kind, path, **more)
        self._before(operation)
        with self._lock:
            result = action()
            self.operations.append(Operation(kind, path, at=time.monotonic_ns(), **more))
        return result


@contextmanager
def watching(root: Path, before: Before = lambda operation: None) -> Iterator[Journal]:
    """Within this block the operations of this process under `root` are noted down, and may be refused."""
    journal = Journal(root, before)
    with pytest.MonkeyPatch.context() as patch:
        _replace(patch, journal)
        yield journal


def _replace(patch: pytest.MonkeyPatch, journal: Journal) -> None:
    real_open, real_os_open, rename = builtins.open, os.open, os.rename

    def on_path(kind: str, real: Any) -> Any:
        def replaced(path: Any, *more: Any, dir_fd: int | None = None) -> Any:
            options = {} if dir_fd is None else {"dir_fd": dir_fd}
            return journal.do(kind, journal.relative(path, dir_fd), lambda: real(path, *more, **options))

        return replaced

    def replaced_rename(source: Any, target: Any) -> None:
        to = journal.relative(target)
        journal.do("rename", journal.relative(source), lambda: rename(source, target), to=to)

    def replaced_open(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        path = None if isinstance(file, int) else journal.relative(file)
        if path is None or not set(mode) & set("wax+"):
            return real_open(file, mode, *more, **options)
        assert "+" not in mode, f"{path} is opened to be written in place, which this does not follow"
        opening = "truncate" if os.path.exists(file) else "create"
        raw = (
            _File(file, mode.replace("b", "").replace("t", ""), journal, path)
            if "a" in mode and opening == "truncate"
            else journal.do(
                opening, path, lambda: _File(file, mode.replace("b", "").replace("t", ""), journal, path)
            )
        )
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    def replaced_os_open(path: Any, flags: int, *more: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        assert not writes or journal.relative(path) is None, f"{path} is written in a way not followed here"
        return real_os_open(path, flags, *more, **options)

    for name in ("mkdir", "unlink", "remove", "rmdir", "fsync"):
        patch.setattr(os, name, on_path("unlink" if name == "remove" else name, getattr(os, name)))
    for name in ("rename", "replace"):
        patch.setattr(os, name, replaced_rename)
    patch.setattr(os, "open", replaced_os_open)
    patch.setattr(builtins, "open", replaced_open)
    patch.setattr(io, "open", replaced_open)


class _File(io.FileIO):
    """A file whose writes, as the system gets them, are noted down."""

    def __init__(self, file: Any, mode: str, journal: Journal, path: str) -> None:
        super().__init__(file, mode)
        self._journal = journal
        self._path = path

    def write(self, content: Any) -> int:
        """Write as much as the system takes."""
        data = bytes(content)
        written: int = self._journal.do(
            "write", self._path, lambda: super(_File, self).write(data), content=data
        )
        assert written == len(data), "the system took only a part, which this does not follow"
        return written
