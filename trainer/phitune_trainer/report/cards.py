"""An answer as the page shows it: cut to a length, with its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from phitune_trainer.report.predictions import Shown
from phitune_trainer.report.thumbnail import Thumbnail

MOST_CHARACTERS: Final = 600
"""Of a question or an answer."""
MOST_ANSWERS: Final = 5
"""Of those that count as right."""
MOST_PICTURES: Final = 4
"""Of one sample."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is shown of one sample."""

    sample: str
    question: str
    answer: str
    expected: list[str]
    before: str | None
    """The answer of the weights that the run began with; None where it is not known."""
    score: str
    is_right: bool
    gain: float
    pictures: list[Thumbnail]
    num_more_pictures: int


def pictures_of(shown: Shown) -> tuple[str, ...]:
    """Names of the pictures that its card shows."""
    return shown.after.pictures[:MOST_PICTURES]


def card(shown: Shown, thumbnails: Mapping[str, Thumbnail], *, volume: str) -> Card:
    """The card of an answer; a picture that is not among `thumbnails` is said to be missing.

    `volume`: the folder that the place of the sample is said relative to.
    """
    one = shown.after
    expected = [cut(answer) for answer in one.answers[:MOST_ANSWERS]]
    if more := len(one.answers) - MOST_ANSWERS:
        expected += [f"and {more} more"] if more > 0 else []
    return Card(
        sample=cut(one.sample.removeprefix(f"{volume}/")),
        question=cut(one.question),
        answer=cut(one.prediction),
        expected=expected,
        before=None if shown.before is None else cut(shown.before.prediction),
        score=f"{one.score:.2f}",
        is_right=one.score >= 1,
        gain=shown.gain,
        pictures=[
            thumbnails.get(name, Thumbnail(name, reason="not looked for")) for name in pictures_of(shown)
        ],
        num_more_pictures=max(0, len(one.pictures) - MOST_PICTURES),
    )


def cut(text: str) -> str:
    """The beginning of a text that is too long, and how much is left out."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({len(text) - MOST_CHARACTERS:,} more characters)"
