"""A folder as a volume, with a real agent beside it and a connection that can be cut."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phitune_cli.finetune import download as downloading
from phitune_cli.finetune import upload as uploading
from phitune_cli.finetune import volume_agent
from phitune_cli.finetune.agent import Agent
from phitune_cli.finetune.problems import ConnectionLost

NEVER = 10**9


class Cut:
    """A channel to a real agent, which breaks after so many bytes."""

    def __init__(
        self, root: Path, limit: int, end_after: Callable[[int], object] = lambda seconds: None
    ) -> None:
        self.sent = b""
        self._end_after = end_after
        self._left = limit
        self._near, far = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(root, far))
        self._thread.start()

    def _serve(self, root: Path, far: socket.socket) -> None:
        with far, far.makefile("rb") as source, contextlib.suppress(OSError), far.makefile("wb") as sink:
            volume_agent.Agent(root, source, sink, self._end_after).serve()

    def send(self, data: bytes) -> None:
        self.sent += data
        self._near.sendall(data[: self._left])
        self._use(len(data))

    def receive(self) -> bytes:
        data = self._near.recv(4096)
        self._use(len(data) or NEVER)
        return data

    def _use(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise ConnectionLost("cut off")

    def close(self) -> None:
        self._near.close()
        self._thread.join()


@contextlib.contextmanager
def agent_at(root: Path, limit: int = NEVER) -> Iterator[Agent]:
    channel = Cut(root, limit)
    try:
        yield Agent(channel)
    finally:
        channel.close()


@contextlib.contextmanager
def small_pieces() -> Iterator[Path]:
    """A folder for one example, in which files of some bytes are sent in many pieces."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (uploading, downloading):
            patch.setattr(module, "PIECE", 7)
        yield Path(folder)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
