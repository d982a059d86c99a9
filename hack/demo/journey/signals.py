"""Ctrl-C, a closed terminal and SIGTERM: one exception, once."""

import signal


class Interrupted(BaseException):
    """Somebody asked the demo to stop. Not an Exception: nothing but `main` handles it."""


def raise_on_signals() -> None:
    """From now on the first of these signals raises Interrupted, and later ones do nothing."""

    def on_signal(number: int, _frame: object) -> None:
        ignore_signals()
        raise Interrupted(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, on_signal)


def ignore_signals() -> None:
    """From now on what is being done is finished: a second Ctrl-C must not leave half of it behind."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
