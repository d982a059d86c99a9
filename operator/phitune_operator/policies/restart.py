"""Whether a gang that failed starts again, and when.

A fault of the job counts against `spec.runPolicy.restartLimit`; what the cluster did to it does not.
"""

from datetime import datetime, timedelta

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=5)
DISRUPTION_PAUSE = timedelta(seconds=2)
"""After a disruption: enough that a gang that is taken away again and again does not spin."""


def is_budget_spent(*, counted: int, limit: int) -> bool:
    """Whether one more fault is one too many, after so many counted restarts."""
    return counted >= limit


def pause_before(*, counted: int, was_fault: bool) -> timedelta:
    """How long to wait before the next attempt: none after the first fault, then 10 s, doubling to 5 min.

    `counted` includes the restart that is about to come.
    """
    if not was_fault:
        return DISRUPTION_PAUSE
    if counted <= 1:
        return timedelta()
    doublings = min(counted - 2, 16)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def wait_left(*, ended_at: datetime | None, pause: timedelta, now: datetime) -> timedelta:
    """How long is left of the pause. A clock that was set back does not make it longer than it is."""
    if ended_at is None:
        return timedelta()
    return max(timedelta(), min(pause, ended_at + pause - now))
