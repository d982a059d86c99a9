"""One of several processes, on whatever nodes, does a piece of work on a volume that they share.

File locks do not hold on every network file system, nor does a lock end with a node that is cut off. So a
lease is a numbered file, made by exclusive creation, that its holder keeps rewriting. Who waits sees by its
own clock whether the file changes; the clocks of two nodes are never compared. A lease that stands still is
overtaken by the next number, which only one can create; its holder, should it come back, sees that and stops.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 5.0
"""How often a holder rewrites its lease."""
LOST_SECONDS = 30.0
"""A lease that stands still for so long is overtaken."""
_LOOK_SECONDS = 0.5


class LeaseLost(Exception):
    """Another process has overtaken this one's lease."""


class Lease:
    """The right to do the work, while it lasts."""

    def __init__(self, path: Path, beat_seconds: float) -> None:
        self._path = path
        self._owner = uuid.uuid4().hex
        self._beat_seconds = beat_seconds
        self.has_overtaken = _number(path) > 1
        """Whether another process had the right before, and may still write what it has under way."""
        self._is_lost = False
        self._beaten_at = time.monotonic()
        self._beats = 0
        self._beating = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {path.name}", daemon=True)

    def check(self) -> None:
        """Raise LeaseLost if another process has the right by now.

        Looks at the volume itself where the last beat is late: a process that was stopped for a while comes
        back before its next beat.
        """
        if time.monotonic() - self._beaten_at > 2 * self._beat_seconds:
            self._beat()
        if self._is_lost:
            raise LeaseLost(f"{self._path} was overtaken by another process")

    def _claim(self) -> bool:
        """Make the lease's file; whether this process is the one that did."""
        try:
            with self._path.open("x", encoding="utf-8") as file:
                file.write(self._text(0))
        except (FileExistsError, FileNotFoundError):  # the folder goes when a holder is done
            return False
        self._thread.start()
        return True

    def _text(self, beats: int) -> str:
        return f"{self._owner} {beats} {socket.gethostname()}\n"

    def _keep(self) -> None:
        while not self._is_lost and not self._done.wait(self._beat_seconds):
            self._beat()

    def _beat(self) -> None:
        """Say that the holder is alive, or find out that it was overtaken."""
        with self._beating:
            try:
                if _number(self._path) < _newest(self._path.parent)[0] or not self._is_mine():
                    self._is_lost = True
                    return
                self._beats += 1
                # Not created anew: a lease that was taken away stays away.
                with self._path.open("r+", encoding="utf-8") as file:
                    file.write(self._text(self._beats))
                self._beaten_at = time.monotonic()
            except OSError:  # who cannot say that it is alive will be overtaken
                self._is_lost = True

    def _is_mine(self) -> bool:
        return self._path.read_text(encoding="utf-8").startswith(self._owner)

    def _release(self) -> None:
        """Take the lease away, and with it those that it overtook; its own last: until then nobody waits."""
        self._done.set()
        self._thread.join()
        try:
            if self._is_lost or not self._is_mine():
                return
        except FileNotFoundError:  # overtaken, and the other is done, too
            return
        for path in sorted(self._path.parent.iterdir()):
            if _number(path) <= _number(self._path):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # the next one has its lease in it already
            self._path.parent.rmdir()


@contextmanager
def sole(
    folder: Path,
    is_done: Callable[[], bool],
    on_wait: Callable[[str], None],
    *,
    beat_seconds: float | None = None,
    lost_seconds: float | None = None,
) -> Iterator[Lease | None]:
    """Give the lease once no other process holds it, or None once `is_done()`.

    `folder` holds the leases, and is there only while somebody has one. `on_wait` is called about twice a
    second with the name of the holder's host. Seconds default to those above.
    """
    beat_seconds = BEAT_SECONDS if beat_seconds is None else beat_seconds
    lost_seconds = LOST_SECONDS if lost_seconds is None else lost_seconds
    seen, since = (0, ""), time.monotonic()
    while True:
        if is_done():
            yield None
            return
        folder.mkdir(parents=True, exist_ok=True)
        number, text = _newest(folder)
        if (number, text) != seen:
            seen, since = (number, text), time.monotonic()
        if number and time.monotonic() - since < lost_seconds:
            on_wait(text.split()[-1] if text.split() else "another process")
            time.sleep(min(_LOOK_SECONDS, lost_seconds))
            continue
        lease = Lease(folder / f"{number + 1:04d}", beat_seconds)
        if lease._claim():
            break
    try:
        yield None if is_done() else lease
    finally:
        lease._release()


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0


def _newest(folder: Path) -> tuple[int, str]:
    """Number and content of the newest lease; 0 and nothing without one."""
    numbers = [_number(Path(entry)) for entry in (os.listdir(folder) if folder.is_dir() else [])]
    newest = max(numbers, default=0)
    try:
        return newest, (folder / f"{newest:04d}").read_text(encoding="utf-8") if newest else ""
    except FileNotFoundError:  # released just now
        return 0, ""
