"""How long something has been so, by this process' own clock, which nobody sets."""

import time
from collections.abc import Callable, Hashable
from datetime import timedelta

from phitune_operator.kinds import Key


class Stopwatch:
    """Measures one state of each job."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Key, tuple[Hashable, float]] = {}

    def measure(self, key: Key, state: Hashable | None) -> timedelta | None:
        """How long the job has been in this state without a look that found another; None: it is in none."""
        if state is None:
            self._since.pop(key, None)
            return None
        known = self._since.get(key)
        if known is None or known[0] != state:
            known = self._since[key] = (state, self._clock())
        return timedelta(seconds=self._clock() - known[1])

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a job that is gone."""
        self._since.pop(key, None)
