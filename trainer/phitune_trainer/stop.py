"""A request to stop (SIGTERM from Kubernetes, Ctrl-C from a person), as the training process sees it.

While nothing would be lost (loading, evaluating), the signal ends the process at once. While training it
only leaves a note: the ranks agree on a step, save, and end there.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from phitune_trainer.errors import Interrupted


class StopRequest:
    """Whether this process was told to stop. `listen` must be called in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._may_end_now: str | None = None

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

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

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        if self.requested and self._may_end_now is not None:
            saying, self._may_end_now = self._may_end_now, None
            raise Interrupted(saying)
