"""What a rank does first."""

import multiprocessing
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from phitune_trainer import train


def _run_rank(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    train.main()


def _is_served(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _sockets(pid: int) -> set[str]:
    """The sockets of a process, each as the kernel names it."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it may be closed by now
            found.add(os.readlink(file))
    return {target for target in found if target.startswith("socket:")}


def test_data_workers_hold_no_socket_of_their_rank(
    tmp_path: Path, make_config: Any, free_port: Callable[[], int], wait_until: Any
) -> None:
    """They are forked before it serves its progress: no thread and no lock of the server goes with them."""
    config = tmp_path / "train.yaml"
    config.write_text(make_config(world={"processesPerNode": 2}).to_yaml())
    port = free_port()
    variables = {
        "PHITUNE_CONFIG": str(config),
        "PHITUNE_REPORTS": str(tmp_path),
        "PHITUNE_PROGRESS_PORT": str(port),
        "PHITUNE_PROGRESS_HOST": "127.0.0.1",
        "DATA_WORKERS": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",  # the other one never comes
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    rank = multiprocessing.get_context("fork").Process(target=_run_rank, args=(variables,))
    rank.start()
    try:
        wait_until(lambda: _is_served(port), seconds=60)
        assert rank.pid is not None
        [worker] = Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()
        assert len(_sockets(int(worker)) - _sockets(os.getpid())) == 1, "the one that samples go through"
    finally:
        rank.kill()
        rank.join()
