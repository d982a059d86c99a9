"""A request to stop (SIGTERM from Kubernetes, Ctrl-C from a person), as the training process sees it.

While nothing would be lost (loading, exporting), the signal ends the process at once. While training and
evaluating it only leaves a note: the ranks agree on a step, save, and end there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from phitune_trainer.errors import Interrupted

_OWN_END_SECONDS = 2.0
"""How long the main thread may take to end by itself, and to remove what it has half written."""


class StopRequest:
    """Whether this process was told to stop. `listen` must be called in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._may_end_now: str | None = None

    def listen(self, end: Callable[[str], object]) -> None:
        """Take over SIGTERM and SIGINT.

        Python calls handlers in the main thread alone, and not while that waits: for other ranks, or for a
        slow volume. So a thread hears of signals too, and calls `end`, which ends the process, with what
        `ending_at_once` says, where the main thread has not ended.
        """
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, args=(heard, end), name="stop", daemon=True).start()

    @contextmanager
    def ending_at_once(self, saying: str) -> Iterator[None]:
        """Within this block the signal raises Interrupted with the message `saying`."""
        self._may_end_now = saying
        try:
            self._raise_if_requested()
            yield
            self._raise_if_requested()
        finally:
            self._may_end_now = None

    def _watch(self, heard: int, end: Callable[[str], object]) -> None:
        while os.read(heard, 1):
            self.requested = True
            time.sleep(_OWN_END_SECONDS)
            if (saying := self._may_end_now) is not None:
                end(saying)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        if self.requested and self._may_end_now is not None:
            raise Interrupted(self._may_end_now)
