"""One line that is drawn again and again on a terminal; elsewhere a line now and then, or none."""

import time
from collections.abc import Callable
from typing import Self, TextIO

_CLEAR_LINE = "\r\x1b[K"
_SECONDS = 0.25
"""Between two drawings on a terminal."""


class ProgressLine:
    """Shows how far something is while its block runs; on a terminal nothing is left of it afterwards."""

    def __init__(
        self, stream: TextIO, *, every: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`every`: seconds between two lines where `stream` is no terminal; None: none there."""
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._pause = _SECONDS if self._is_terminal else every
        self._clock = clock
        self._started = clock()
        self._shown = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._started

    def show(self, line: str, *, is_last: bool = False) -> None:
        """Draw or print `line`, if it is time for one or no other comes."""
        now = self._clock()
        if self._pause is None or (now - self._shown < self._pause and not is_last):
            return
        self._shown = now
        self._stream.write(f"{_CLEAR_LINE}{line}" if self._is_terminal else f"{line}\n")
        self._stream.flush()
