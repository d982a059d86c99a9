"""Runs in a pod beside the volume, for one `kubectl finetune` that is connected to its standard input.

Sent as text to the Python of the trainer's image, which may be of another version: it imports the standard
library alone. A request is a line of JSON, and so is its answer; either may be followed by as many bytes as
it says under `size`. Requests are answered in order, so that many may be on their way. `still` is no request
or answer, but a sign of life while one of the two is busy.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

PART = ".phitune-part"
"""Ends the name of a file that is not complete yet."""
LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""
ALIVE = "/tmp/phitune-alive"  # noqa: S108 - the pod's own
"""Touched at each sign of life; a helper pod ends when nobody has asked for a while."""
IDLE_SECONDS = 600
"""After which an agent that nobody asks ends."""
_STILL_SECONDS = 5.0
"""Between two signs of life while the answer is being found."""
_PIECE = 2**20
_REPORT = (
    "import sys; from pathlib import Path; from phitune_trainer.report import write_report; "
    "from phitune_trainer.run_layout import RunLayout; "
    "write_report(RunLayout(Path(sys.argv[1])), out=Path(sys.argv[2]))"
)

Fields = dict[str, Any]


class Agent:
    """Answers requests about the files below `root`; told to `end_after` so many seconds, 0: not at all."""

    def __init__(
        self, root: Path, source: BinaryIO, sink: BinaryIO, end_after: Callable[[int], object]
    ) -> None:
        self._root = root
        self._source = source
        self._sink = sink
        self._end_after = end_after

    def serve(self) -> None:
        """Answer until the connection ends, wherever in a request that is; what was written by then stays."""
        while (line := self._source.readline()).endswith(b"\n"):
            request = json.loads(line)
            body = self._source.read(request.get("size", 0))
            if len(body) < request.get("size", 0):
                return
            self._end_after(0)
            if "still" in request:
                self._touch()
                self._end_after(IDLE_SECONDS)
                continue
            try:
                answer, data = getattr(self, f"do_{request['do']}")(request, body)
            except (OSError, ValueError) as error:
                answer, data = {"error": str(error), "errno": getattr(error, "errno", None)}, b""
            self._answer(answer, data)
            self._end_after(IDLE_SECONDS)

    def do_list(self, request: Fields, _: bytes) -> tuple[Fields, bytes]:
        """Every complete file below a folder, with its size; null where there is no such folder."""
        top = self._path(request)
        found = (
            None
            if not top.is_dir()
            else [
                [path.relative_to(top).as_posix(), path.stat().st_size]
                for path in sorted(top.rglob("*"))
                if path.is_file() and not path.name.endswith(PART)
            ]
        )
        text = json.dumps(found).encode()
        return {"size": len(text)}, text

    def do_look(self, request: Fields, _: bytes) -> tuple[Fields, bytes]:
        """Size and hash of a file, if it is there and has the length asked for, else of its beginning."""
        path, length = self._path(request), request.get("length")
        if path.is_file() and length in (None, path.stat().st_size):
            return {"whole": path.stat().st_size, "sha256": self._digest(path)}, b""
        part = part_of(path)
        if part.is_file():
            return {"part": part.stat().st_size, "sha256": self._digest(part)}, b""
        return {}, b""

    def do_write(self, request: Fields, body: bytes) -> tuple[Fields, bytes]:
        """Put bytes at a place of a file that is not complete yet; what was behind it is forgotten."""
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(part_of(path), os.O_WRONLY | os.O_CREAT, 0o664), "wb") as file:
            file.truncate(request["offset"])
            file.seek(request["offset"])
            file.write(body)
        return {}, b""

    def do_finish(self, request: Fields, _: bytes) -> tuple[Fields, bytes]:
        """Give a file its name if its bytes, read again, have the hash; else forget them. The hash found."""
        path = self._path(request)
        part = part_of(path)
        found = self._digest(part)
        if found != request["sha256"]:
            part.unlink()
            return {"sha256": found}, b""
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        return {"sha256": found}, b""

    def do_read(self, request: Fields, _: bytes) -> tuple[Fields, bytes]:
        """Bytes of a file."""
        with self._path(request).open("rb") as file:
            file.seek(request["offset"])
            data = file.read(request["length"])
        return {"size": len(data)}, data

    def do_progress(self, _: Fields, __: bytes) -> tuple[Fields, bytes]:
        """What rank 0, which is in this very pod, says of itself."""
        with urllib.request.urlopen("http://127.0.0.1:8471/progress", timeout=15) as answer:
            data: bytes = answer.read(2**16)
        return {"size": len(data)}, data

    def do_report(self, request: Fields, _: bytes) -> tuple[Fields, bytes]:
        """The report of a run as it is now, made here."""
        out = Path(f"/tmp/phitune-report-{os.getpid()}.html")  # noqa: S108 - the pod's own
        command = [sys.executable, "-c", _REPORT, str(self._path(request)), str(out)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as made:
            while True:
                try:
                    said = made.communicate(timeout=_STILL_SECONDS)[1]
                    break
                except subprocess.TimeoutExpired:
                    self._still()
        if made.returncode:
            raise ValueError(said.decode(errors="replace").strip().rpartition("\n")[2])
        data = out.read_bytes()
        out.unlink()
        return {"size": len(data)}, data

    def _path(self, request: Fields) -> Path:
        """A place below the root; ValueError for any other."""
        named = PurePosixPath(request["path"])
        if named.is_absolute() or ".." in named.parts:
            raise ValueError("not below the volume's root")
        return self._root / named

    def _digest(self, path: Path) -> str:
        digest, said = hashlib.sha256(), time.monotonic()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                if time.monotonic() - said > _STILL_SECONDS:
                    said = time.monotonic()
                    self._still()
        return digest.hexdigest()

    def _still(self) -> None:
        """Say that the answer is yet to come, so that no proxy takes the connection for dead."""
        self._answer({"still": True}, b"")

    def _answer(self, answer: Fields, data: bytes) -> None:
        self._sink.write(json.dumps(answer).encode() + b"\n" + data)
        self._sink.flush()
        self._touch()

    def _touch(self) -> None:
        if os.path.exists(ALIVE):
            os.utime(ALIVE)


def part_of(path: Path) -> Path:
    """What a file is called that is not complete yet: a hash, where its own name leaves no room."""
    name = path.name + PART
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(path.name)).hexdigest() + PART
    return path.with_name(name)


if __name__ == "__main__":
    os.umask(0o002)
    Agent(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer, signal.alarm).serve()
