"""How far a transfer is, as a line every few seconds: bytes, rate, time left."""

import time
from collections.abc import Callable
from typing import Final

Say = Callable[[str], None]

SECONDS_BETWEEN_LINES: Final = 5.0
_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Transfer:
    """Counts bytes of a known total, and says now and then how far it is."""

    def __init__(
        self, what: str, total: int, present: int, say: Say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`present` bytes were there before."""
        self._what = what
        self._total = total
        self._present = present
        self._say = say
        self._clock = clock
        self._told = clock()
        self._bytes_told = present

    def add(self, num_bytes: int) -> None:
        """Count bytes that came (or, if negative, that have to come again)."""
        self._present += num_bytes
        now = self._clock()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        rate = max(self._present - self._bytes_told, 0) / (now - self._told)
        self._told, self._bytes_told = now, self._present
        done = f"{size(self._present)} of {size(self._total)} ({self._present / self._total:.0%})"
        left = f", {_span((self._total - self._present) / rate)} left" if rate else ""
        self._say(f"{self._what}: {done}, {size(round(rate))}/s{left}")


def every_few_seconds(say: Say) -> Say:
    """Pass on only one line of all that come within a few seconds."""
    told = time.monotonic()

    def throttled(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            say(line)

    return throttled


def size(num_bytes: int) -> str:
    """A number of bytes for people: 8.3 GB."""
    for factor, unit in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
