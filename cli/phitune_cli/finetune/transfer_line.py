"""How far a copy is: one line that is drawn again and again, or a line now and then where that cannot be."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from phitune_cli.finetune.problems import ConnectionLost, NoAnswer, Unreachable
from phitune_cli.finetune.upload import Count
from phitune_cli.progress_line import ProgressLine
from phitune_cli.saying import note
from phitune_trainer.durations import duration
from phitune_trainer.transfer import size

_SECONDS_BETWEEN_LINES: Final = 10.0
_TRIES: Final = 6

T = TypeVar("T")


@contextmanager
def counting(what: str, total: int) -> Iterator[Count]:
    """Within this block, a function that is told of bytes and shows on stderr how many there are."""
    done = 0
    with ProgressLine(sys.stderr, every=_SECONDS_BETWEEN_LINES) as line:

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            line.show(progress_text(what, done, total, line.seconds))

        yield count


def progress_text(what: str, done: int, total: int, seconds: float) -> str:
    """Such as `uploading 12.3 MB of 45.6 MB (27%), 9s left`; pure."""
    share = done / total if total else 1.0
    left = f", {duration(seconds / done * (total - done))} left" if 0 < done < total and seconds >= 1 else ""
    return f"{what} {size(done)} of {size(total)} ({share:.0%}){left}"


def go_on_when_cut_off(work: Callable[[], T], *, pause: Callable[[float], None] = time.sleep) -> T:
    """Do work that goes on where it was cut off; ConnectionLost when it is cut off again and again.

    Once it was, a cluster that does not answer is waited for too: what cut it off may be just that.
    """
    passing: tuple[type[Unreachable], ...] = (ConnectionLost,)
    for number in range(1, _TRIES):
        try:
            return work()
        except passing as lost:
            passing = (ConnectionLost, NoAnswer)
            note(f"{lost}; trying again")
            pause(2.0**number)
    return work()
