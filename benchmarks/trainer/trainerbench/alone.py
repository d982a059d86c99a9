"""Functions measured in a fresh process, which nothing measured before has warmed up or filled."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from benchrows.row import NotMeasured

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of a module in a new process, and return what it returns.

    Raises NotMeasured where the process ends without a result: what went wrong is on its standard error. The
    process is ended with the caller's wait, also by an interruption.
    """
    (result,) = _all_at_once([(function, arguments)])
    return result


def side_by_side(function: Callable[[Argument], Result], *arguments: Argument) -> list[Result]:
    """Call a function as `alone` does, once with each argument, in as many processes at the same time."""
    return _all_at_once([(function, (argument,)) for argument in arguments])


def _all_at_once(calls: Sequence[tuple[Callable[..., Result], tuple[object, ...]]]) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    running: list[tuple[BaseProcess, Connection]] = []
    try:
        for function, arguments in calls:
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_send, args=(sender, function, arguments))
            running.append((process, receiver))
            process.start()
            sender.close()
        return [_result(process, receiver) for process, receiver in running]
    finally:
        for process, receiver in running:
            if process.pid is not None:
                process.terminate()
                process.join()
            receiver.close()


def _result(process: BaseProcess, receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise NotMeasured(
            f"the process that measures ended with exit code {process.exitcode}; its error is above"
        ) from None


def _send(sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it here too; the caller ends this process
    sender.send(function(*arguments))
