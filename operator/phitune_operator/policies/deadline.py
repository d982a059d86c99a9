"""How long a job may take in all: `spec.runPolicy.activeDeadline` from its first start, pauses included."""

from datetime import datetime, timedelta


def time_left(*, deadline: timedelta | None, started_at: datetime | None, now: datetime) -> timedelta | None:
    """How long the job may still run (zero: it is over); None without a limit."""
    if deadline is None or started_at is None:
        return None
    return max(timedelta(), started_at + deadline - now)
