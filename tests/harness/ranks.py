"""Ranks of a test: new processes on this machine that meet over gloo."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from phitune_trainer.engine.world import World, join_world, leave_world


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
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rank(rank: int, size: int, port: str, function: Callable[[World], Any], result: Connection) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        GLOO_SOCKET_IFNAME="lo",
        PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="200",
    )
    result.send(function(join_world("cpu")))
    leave_world()
