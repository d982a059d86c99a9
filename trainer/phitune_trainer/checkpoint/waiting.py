"""Waiting, all ranks together, for what threads of theirs read from the volume or write to it."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Final

from phitune_trainer.engine.world import World
from phitune_trainer.errors import VolumeStalled

LONGEST_STANDSTILL_SECONDS: Final = 1500.0
"""How long it is waited where nothing moves: less than a rank waits for the others
(COLLECTIVE_TIMEOUT_SECONDS), so that the volume is named and not a collective."""
_POLL_SECONDS: Final = 0.2


def wait_for_all(
    world: World,
    work: Future[Any],
    moved: Callable[[], tuple[int, int]],
    on_wait: Callable[[int, int], None],
    *,
    stalled: str,
) -> None:
    """Wait until no rank's `work` goes on; collective, and never long in one collective.

    `moved`: how many bytes this rank's has done, and of how many. `on_wait` is told the same of all ranks
    several times a second. VolumeStalled, beginning with `stalled`, where nothing moves for
    LONGEST_STANDSTILL_SECONDS.
    """
    moved_at, seen = time.monotonic(), 0
    while True:
        wait([work], timeout=_POLL_SECONDS)
        is_overdue = world.is_first and time.monotonic() - moved_at > LONGEST_STANDSTILL_SECONDS
        num_busy, num_overdue, done, total = world.sum([not work.done(), is_overdue, *moved()])
        if not num_busy:
            return
        if num_overdue:
            raise VolumeStalled(f"{stalled} for {LONGEST_STANDSTILL_SECONDS / 60:.0f} minutes")
        if done != seen:
            moved_at, seen = time.monotonic(), done
        on_wait(done, total)
