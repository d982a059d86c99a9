"""Ranks of a test: new processes on this machine that meet over gloo."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from harness.ports import free_port
from phitune_trainer import train
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine.world import World, join_world, leave_world
from phitune_trainer.reports import FOLDER_VARIABLE, RankReport, read_report


def run_in_ranks(size: int, function: Callable[[World], Any]) -> list[Any]:
    """Run a function in so many forked processes; what it returned, by rank.

    Import what is slow to import before: the processes begin with what this one knows.
    """
    port = str(free_port())
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(size)]
    processes = [
        fork.Process(target=_rank, args=(rank, size, port, function, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()
    try:
        return [pipe[0].recv() for pipe in pipes]
    except EOFError as error:
        for process in processes:
            process.join(timeout=30)
        codes = [process.exitcode for process in processes]
        raise AssertionError(f"a rank ended before it was done; exit codes {codes}") from error
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()


class Gang:
    """Training processes of one run, forked from this one: as the launcher starts them, but at once."""

    def __init__(self, processes: list[BaseProcess], reports: Path) -> None:
        self.processes = processes
        self._reports = reports

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        return pid

    def send(self, number: int) -> None:
        """Send a signal to every rank that is left."""
        for rank, process in enumerate(self.processes):
            if process.is_alive():
                os.kill(self.pid(rank), number)

    def report(self, rank: int) -> RankReport:
        """What a rank last said of itself."""
        return read_report(self._reports, rank)

    def wait(self) -> list[int | None]:
        """The exit codes of all ranks; below 0 the signal that killed it."""
        return [self.wait_for(rank) for rank in range(len(self.processes))]

    def wait_for(self, rank: int) -> int | None:
        """The exit code of one rank."""
        self.processes[rank].join(200)
        return self.processes[rank].exitcode


@contextmanager
def training(config: TrainConfig, **variables: str) -> Iterator[Gang]:
    """All ranks of a run, from their start; those that are left at the end are killed."""
    workspace = Path(config.run.workspace)
    reports = workspace / "reports"
    reports.mkdir(exist_ok=True)
    path = workspace / "train.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    for rank in range(config.world.size):
        (reports / f"rank-{rank}.json").unlink(missing_ok=True)
    shared = {
        "PHITUNE_CONFIG": str(path),
        FOLDER_VARIABLE: str(reports),
        "PHITUNE_PROGRESS_PORT": str(free_port()),
        "PHITUNE_PROGRESS_HOST": "127.0.0.1",
        "DATA_WORKERS": "0",
        **variables,
    }
    port, fork = str(free_port()), multiprocessing.get_context("fork")
    gang = Gang(
        [
            fork.Process(target=_train, args=({**_seat(rank, config.world.size, port), **shared},))
            for rank in range(config.world.size)
        ],
        reports,
    )
    # Python forgets the signals that a forked process gets before its first line: they wait until it listens.
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for process in gang.processes:
        process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
    try:
        yield gang
    finally:
        for process in gang.processes:
            process.kill()
            process.join()


def _begin(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    # torch makes its pool of threads anew after a fork, at the first use: two threads must not do it at once.
    torch.set_num_threads(1)


def _train(variables: dict[str, str]) -> None:
    # As the launcher starts them, without the tests' own handler: no wait for other ranks would let it run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _begin(variables)
    sys.exit(train.main())


def _rank(rank: int, size: int, port: str, function: Callable[[World], Any], result: Connection) -> None:
    _begin(_seat(rank, size, port))
    result.send(function(join_world("cpu")))
    leave_world()


def _seat(rank: int, size: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "PHITUNE_COLLECTIVE_TIMEOUT_SECONDS": "200",
    }
