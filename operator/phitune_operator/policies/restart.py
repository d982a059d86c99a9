"""Whether a gang that failed starts again, and when.

A fault of the job counts against `spec.runPolicy.restartLimit`; what the cluster did to it does not.
"""

from datetime import datetime, timedelta

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=5)
DISRUPTION_PAUSE = timedelta(seconds=2)
"""After the first disruption, doubling with each further one that came before a newer checkpoint: a gang that
is taken away again and again does not spin."""


def is_budget_spent(*, counted: int, limit: int) -> bool:
    """Whether one more fault is one too many, after so many counted restarts."""
    return counted >= limit


def pause_after_fault(*, counted: int) -> timedelta:
    """How long to wait before the next attempt: none after the first fault, then 10 s, doubling to 5 min.

    `counted` includes the restart that is about to come.
    """
    return timedelta() if counted <= 1 else _doubled(FIRST_PAUSE, counted - 2)


def pause_after_disruption(*, in_a_row: int) -> timedelta:
    """How long to wait before the next attempt: 2 s, doubling to 5 min while nothing newer is saved.

    `in_a_row` counts disruptions without a newer checkpoint, from 1 for the one that has just come.
    """
    return _doubled(DISRUPTION_PAUSE, in_a_row - 1)


def _doubled(pause: timedelta, times: int) -> timedelta:
    return min(pause * (1 << max(0, min(times, 16))), LONGEST_PAUSE)


def wait_left(*, ended_at: datetime | None, pause: timedelta, now: datetime) -> timedelta:
    """How long is left of the pause. A clock that was set back does not make it longer than it is."""
    if ended_at is None:
        return timedelta()
    return max(timedelta(), min(pause, ended_at + pause - now))
