"""Functions measured in a fresh process, which nothing measured before has warmed up or filled."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from trainerbench.row import NotMeasured

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of a module in a new process, and return what it returns.

    Raises NotMeasured where the process ends without a result: what went wrong is on its standard error. The
    process is ended with the caller's wait, also by an interruption.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError:
        process.join()
        raise NotMeasured(
            f"the process that measures ended with exit code {process.exitcode}; its error is above"
        ) from None
    finally:
        process.terminate()
        process.join()
        receiver.close()
    return result


def _send(sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it here too; the caller ends this process
    sender.send(function(*arguments))
