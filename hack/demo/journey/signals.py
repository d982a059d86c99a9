"""Ctrl-C, a closed terminal and SIGTERM: one exception, once, and never where it would lose a process."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody asked the demo to stop. Not an Exception: nothing but `main` handles it."""


def raise_on_signals() -> None:
    """From now on the first of these signals raises Interrupted, and later ones do nothing."""
    for name in SIGNALS:
        signal.signal(name, _raise)


def ignore_signals() -> None:
    """From now on what is being done is finished: a second Ctrl-C must not leave half of it behind."""
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Let a signal wait for the end of the block: for what must be done whole, such as starting a process."""
    came: list[int] = []
    before = {name: signal.signal(name, lambda number, _frame: came.append(number)) for name in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _raise(number: int, _frame: object) -> None:
    ignore_signals()
    raise Interrupted(signal.Signals(number).name)
