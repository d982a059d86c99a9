"""Processes that encode samples for a training process, ahead of it and in its order.

They are forked when the training process starts, before it has threads or a GPU that a fork would break, and
wait for their data set: so they import nothing again and share the memory of what is imported. Which process
encodes a sample changes nothing about it, so any number of them gives the same samples in the same order.
They hold no state: the end of the training process, however it comes, ends them.
"""

import os
import pickle
import selectors
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import torch

from phitune_trainer.data.channel import Channel, channel_pair
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.errors import DataError
from phitune_trainer.errors import FAULT, UserError
from phitune_trainer.exit_codes import DONE
from phitune_trainer.model import Sample
from phitune_trainer.processes import die_with_parent, signal_name

VARIABLE = "DATA_WORKERS"
"""Environment variable that sets the number of worker processes of each rank."""
MOST_WORKERS = 8
"""Chosen by itself. One core prepares about ten pages a second, and a GPU trains about as many."""

_TASKS_EACH = 2
"""Samples given to a worker at a time: the one that it encodes, and the next one."""
_AHEAD_EACH = 4
"""Samples for each worker that may be given out beyond the one that is waited for."""
_IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""They go to all processes of a terminal or of a service; the training process decides what they mean."""


class Loader(Protocol):
    """What turns indices into samples."""

    summary: str
    """Who encodes the samples, for people."""

    def load(self, dataset: TrainingSamples, indices: Iterator[int]) -> Iterator[Sample]:
        """The samples of these indices, in this order. What a sample raises is raised in its place."""

    def interrupt(self) -> None:
        """Make another thread leave `load`, if that can be done; what it waits for may never come."""

    def close(self) -> None:
        """Give back what it holds. Not while another thread is inside `load`."""


class InProcess:
    """Encodes each sample when it is asked for."""

    summary = "prepared by each rank itself"

    def load(self, dataset: TrainingSamples, indices: Iterator[int]) -> Iterator[Sample]:
        """The samples of these indices, in this order."""
        return (dataset[index] for index in indices)

    def interrupt(self) -> None:
        """Nothing can: the thread itself waits for the volume."""

    def close(self) -> None:
        """It holds nothing."""


class WorkerDied(Exception):
    """A worker process is gone: killed, or out of memory."""


@dataclass
class _Worker:
    pid: int
    channel: Channel
    tasks: deque[tuple[int, int]] = field(default_factory=deque)
    """Place in the order, and index, of the samples that it was given and has not sent yet."""


class Workers:
    """Worker processes, started at once. Make them in the main thread: they end when that does."""

    def __init__(self, count: int) -> None:
        self._workers = [_start() for _ in range(count)]
        self._num_given = 0
        self.summary = f"prepared by {count} worker process{'es' if count > 1 else ''} of each rank"

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def load(self, dataset: TrainingSamples, indices: Iterator[int]) -> Iterator[Sample]:
        """The samples of these indices, in this order; to be asked for once.

        It takes no more than a few indices for each worker in advance, and holds no more samples than that.
        Raises what a sample raises, in its place, and WorkerDied.
        """
        for worker in self._workers:
            self._send(worker, dataset, dataset)
        encoded: dict[int, Sample | Exception] = {}
        wanted = 0
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            while True:
                self._give(dataset, indices, limit=wanted + _AHEAD_EACH * len(self._workers))
                if wanted in encoded:
                    sample = encoded.pop(wanted)
                    if isinstance(sample, Exception):
                        raise sample
                    yield sample
                    wanted += 1
                elif wanted < self._num_given:
                    for key, _ in selector.select():
                        place, sample = self._receive(key.data, dataset)
                        encoded[place] = sample
                else:
                    return

    def interrupt(self) -> None:
        """Kill the workers; who waits for one learns that it died."""
        for worker in list(self._workers):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)  # they have nothing to lose
        for worker in self._workers:
            os.waitpid(worker.pid, 0)
            worker.channel.close()
        self._workers.clear()

    def _give(self, dataset: TrainingSamples, indices: Iterator[int], limit: int) -> None:
        """Give the next samples to the workers that have the least to do, up to the place `limit`."""
        while self._num_given < limit:
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) == _TASKS_EACH or (index := next(indices, None)) is None:
                return
            worker.tasks.append((self._num_given, index))
            self._num_given += 1
            self._send(worker, index, dataset)

    def _send(self, worker: _Worker, value: object, dataset: TrainingSamples) -> None:
        try:
            worker.channel.send(value)
        except OSError:
            self._mourn(worker, dataset)

    def _receive(self, worker: _Worker, dataset: TrainingSamples) -> tuple[int, Sample | Exception]:
        try:
            sample = worker.channel.receive()
        except (EOFError, OSError):
            self._mourn(worker, dataset)
        place, _ = worker.tasks.popleft()
        return place, sample

    def _mourn(self, worker: _Worker, dataset: TrainingSamples) -> NoReturn:
        self._workers.remove(worker)
        worker.channel.close()
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        end = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        at = f" while it prepared {dataset.where(worker.tasks[0][1])}" if worker.tasks else ""
        remedy = (
            f"; if that was for want of memory, raise resources.memory, or set {VARIABLE} to fewer"
            if code == -signal.SIGKILL
            else ""
        )
        raise WorkerDied(f"a data worker (process {worker.pid}) {end}{at}{remedy}")


def choose_num_workers(environment: Mapping[str, str], *, cpus: int, ranks: int) -> int:
    """Workers of each rank: the cores that are left when every rank of this machine has one of its own.

    $DATA_WORKERS sets another number. Raises UserError if that is none.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return min(MOST_WORKERS, max(0, cpus // ranks - 1))
    if not text.isdecimal():
        raise UserError(f"{VARIABLE}={text!r} in the environment: a whole number is needed, 0 for none")
    return int(text)


def start_loader(num_workers: int) -> Loader:
    """So many worker processes, or none."""
    return Workers(num_workers) if num_workers else InProcess()


def _start() -> _Worker:
    ours, theirs = channel_pair()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # A signal to all processes of a group must not find the worker before it has said to ignore it.
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
    if (pid := _fork()) == 0:
        code = FAULT
        try:
            die_with_parent(parent)
            _ignore_signals(blocked_before)
            ours.close()
            _work(theirs)
            code = DONE
        except BaseException:  # noqa: BLE001 - nothing may return into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
    theirs.close()
    return _Worker(pid, ours)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads: those of numpy's library, which minds forks itself.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def _ignore_signals(blocked: set[int | signal.Signals]) -> None:
    """Ignore those of `_IGNORED_SIGNALS` that are waiting and those to come; then block only `blocked`."""
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(channel: Channel) -> None:
    """What a worker does: receive a data set, then indices; send the sample of each, or what went wrong."""
    torch.set_num_threads(1)
    try:
        dataset: TrainingSamples = channel.receive()
        while True:
            channel.send(_encode(dataset, channel.receive()))
    except (EOFError, ConnectionError):
        return


def _encode(dataset: TrainingSamples, index: int) -> Sample | Exception:
    try:
        return dataset[index]
    except DataError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the training process raises it
        error.add_note(f"in a data worker, at {dataset.where(index)}:\n{traceback.format_exc()}")
        return _as_sent(error)


def _as_sent(error: Exception) -> Exception:
    """The error as another process can receive it."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - whatever an error's own class does when it is copied
        return RuntimeError(f"{type(error).__name__}: {error}")
