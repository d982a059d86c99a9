"""Lines for people: names and messages of others show themselves in them and do nothing to a terminal."""

import sys

from phitune_trainer.plain_text import inert


def say(text: str) -> None:
    """Print a line of the result, or several, to standard output."""
    print(inert(text), flush=True)


def note(text: str) -> None:
    """Say something that is not the result: results alone go to standard output."""
    print(inert(text), file=sys.stderr, flush=True)
