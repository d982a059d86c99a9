"""What a person sees: one line a step with the seconds since the start, and errors that say what to do."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class ClusterError(Exception):
    """Something that the person at the keyboard can act on; shown without a traceback."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(ClusterError):
    """Another thread gave up, so this one has nothing to wait for any more."""


@dataclass
class Console:
    """Prints steps and waits; safe to use from several threads."""

    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def step(self, text: str) -> None:
        """Say what was just done, with the seconds since the start."""
        self._check()
        with self._lock:
            print(f"{time.monotonic() - self.started:6.1f}s  {text}", flush=True)

    def stop(self) -> None:
        """Make every thread end at its next step."""
        self._stopped.set()

    def wait_for(
        self,
        what: str,
        is_done: Callable[[], bool],
        *,
        seconds: float,
        explain: Callable[[], str],
        every: float = 0.1,
    ) -> None:
        """Ask `is_done` until it says yes; after `seconds` raise with what `explain` found out."""
        deadline = time.monotonic() + seconds
        while not is_done():
            self._check()
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not within {seconds:.0f} seconds\n{explain()}".rstrip())
            time.sleep(every)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("stopped")


def complain(text: str) -> None:
    """Say it where errors are looked for."""
    print(text, file=sys.stderr, flush=True)
