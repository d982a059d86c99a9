"""A small copy of a picture, as it goes into the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thumbnail:
    """A picture in the report, or why it is missing."""

    name: str
    uri: str = ""
    """A data: address; "" where the picture is missing."""
    width: int = 0
    height: int = 0
    """Pixels."""
    reason: str = ""
    """Why it is missing."""
