"""When a finished job is removed: `spec.runPolicy.ttlAfterFinished` after its end, or never."""

from datetime import datetime, timedelta


def time_left(*, ttl: timedelta | None, finished_at: datetime | None, now: datetime) -> timedelta | None:
    """How long the finished job still has (zero: it is due); None if it stays."""
    if ttl is None or finished_at is None:
        return None
    return max(timedelta(), finished_at + ttl - now)
