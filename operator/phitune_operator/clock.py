"""Times as Kubernetes writes them: RFC 3339 in UTC, whole seconds."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present time of this machine."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Write a time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: object) -> datetime | None:
    """Read a time; None for anything that is not one, since some come from pods."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
