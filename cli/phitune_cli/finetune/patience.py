"""Asking a cluster that has answered before, and may answer again."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from phitune_cli.finetune.problems import Unreachable
from phitune_cli.saying import note

GIVE_UP_SECONDS: Final = 300.0
"""How long an API server may be away: one that is upgraded is away for a minute or two."""

T = TypeVar("T")


def patiently(
    question: Callable[[], T], *, pause: Callable[[], object], say: Callable[[str], None] = note
) -> T:
    """The answer, asked for again and again until there is one; Unreachable after some minutes without."""
    silent_since = None
    while True:
        try:
            answer = question()
        except Unreachable as problem:
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                say(str(problem))
                note(f"asking again, for up to {GIVE_UP_SECONDS / 60:.0f} minutes")
            if now - silent_since > GIVE_UP_SECONDS:
                raise
            pause()
        else:
            if silent_since is not None:
                note("the cluster answers again")
            return answer
