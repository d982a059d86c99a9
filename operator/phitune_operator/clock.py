"""Times as Kubernetes writes them: RFC 3339 in UTC, whole seconds."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present time of this machine."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Write a time."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def from_text(text: object) -> datetime | None:
    """Read a time; None for anything that is not one, since some come from pods."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: before the first or after the last year there is
        return None
