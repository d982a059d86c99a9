"""Process 1 of a training pod: starts the pod's ranks, and ends as they end.

`python3 -m phitune_trainer.launch`, told by the PET_* variables which pod of how many this is. It passes
signals on, keeps each rank's output, ends the others when one rank fails, and leaves with the code of what
went wrong first (exit_codes.py) after writing the pod's termination message. torchrun would turn every code
into 1 and kill the ranks 30 s after a signal. Imports no torch: it must start at once and stay small.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from phitune_trainer.config import ConfigError, TrainConfig, load_config
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE, INTERRUPTED, USER_ERROR
from phitune_trainer.plain_text import inert
from phitune_trainer.pod_ending import RankEnd, describe
from phitune_trainer.processes import LISTENER_VARIABLE, available_cpus
from phitune_trainer.rank_output import RankOutput
from phitune_trainer.reports import FOLDER_VARIABLE, read_report
from phitune_trainer.shared_folder import remove_unheld
from phitune_trainer.termination import attempt, write_termination

GRACE_SECONDS = 100.0
"""How long ranks may save after a signal: less than the pod's terminationGracePeriodSeconds, 120."""
_SETTLE_SECONDS = 1.0
"""After the first failure: how long the ranks that fail of themselves may say so, to find what came first."""
_SIBLINGS_SECONDS = 5.0
"""After that: how long the others have to end before they are killed."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Pod:
    """Which pod of how many this is."""

    nodes: int
    node_rank: int
    processes: int
    master_address: str
    master_port: int | None
    """None: a free one of this machine, where all ranks are."""
    grace_seconds: float

    @property
    def ranks(self) -> range:
        """The ranks of this pod, over the whole gang."""
        return range(self.node_rank * self.processes, (self.node_rank + 1) * self.processes)

    @property
    def world_size(self) -> int:
        """Ranks of the whole gang."""
        return self.nodes * self.processes


def read_pod(environment: Mapping[str, str], config: TrainConfig) -> Pod:
    """PET_NNODES, PET_NODE_RANK, PET_NPROC_PER_NODE, PET_MASTER_ADDR, PET_MASTER_PORT: PyTorchJob sets them.

    Without PET_NNODES this is the only pod, on one machine: the processes are those of the config, and they
    meet on a free local port. PHITUNE_GRACE_SECONDS changes how long ranks may save after a signal.
    """
    text = environment.get("PHITUNE_GRACE_SECONDS", str(GRACE_SECONDS))
    try:
        grace = float(text)
    except ValueError as error:
        raise UserError(f"PHITUNE_GRACE_SECONDS={text!r} in the environment: a number is needed") from error

    def number(name: str, default: int) -> int:
        text = environment.get(name, str(default))
        if not text.isdecimal():
            raise UserError(f"{name}={text!r} in the environment: a whole number is needed")
        return int(text)

    nodes = number("PET_NNODES", 1)
    processes = number("PET_NPROC_PER_NODE", config.world.processes_per_node)
    node_rank = number("PET_NODE_RANK", 0)
    if nodes * processes != config.world.size:
        raise UserError(
            f"this pod is one of {nodes} with {processes} processes each (PET_NNODES, PET_NPROC_PER_NODE), "
            f"but the config's world is {config.world.nodes} x {config.world.processes_per_node}"
        )
    if node_rank >= nodes:
        raise UserError(
            f"PET_NODE_RANK={node_rank} in the environment: must be less than PET_NNODES, {nodes}"
        )
    if nodes == 1:
        return Pod(1, 0, processes, "127.0.0.1", None, grace)
    if not environment.get("PET_MASTER_ADDR"):
        raise UserError(
            f"PET_NNODES is {nodes}, but PET_MASTER_ADDR, the address of the first pod, is not set"
        )
    port = number("PET_MASTER_PORT", 23456)
    return Pod(nodes, node_rank, processes, environment["PET_MASTER_ADDR"], port, grace)


class Signals:
    """What this process was told while `noted` was in force."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        """When the first one came, by the monotonic clock."""
        self.num_interrupts = 0
        """How often a person has pressed Ctrl-C."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this block SIGTERM and SIGINT are only noted. To be entered in the main thread."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            if os.getpid() != 1:  # a pod's process ends next, and what comes too late may not change how
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.num_interrupts += number == signal.SIGINT


class Launcher:
    """The ranks of one pod, from start to end. `signals` are passed on to them."""

    def __init__(
        self, config_path: Path, pod: Pod, reports: Path, show: Callable[[str], None], signals: Signals
    ) -> None:
        self._config_path = config_path
        self._pod = pod
        self._reports = reports
        self._show = show
        self._signals = signals
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._outputs: dict[int, RankOutput] = {}
        self._ended: dict[int, int] = {}
        self._has_passed_on = False
        self._killed: dict[int, str] = {}
        """Why we killed ranks that were told to stop and had not, by rank."""

    def run(self) -> dict[int, RankEnd]:
        """Start the ranks and wait until none is left; how each ended by itself, before it was made to."""
        try:
            self._start_ranks()
            ended_by_themselves = self._wait()
        finally:
            self._send(signal.SIGKILL)
            remove_unheld()  # a rank that fails ends on the spot
        for output in self._outputs.values():
            output.finish()
        return {rank: self._end_of(rank, code) for rank, code in ended_by_themselves.items()}

    def _start_ranks(self) -> None:
        pod = self._pod
        if pod.master_port is not None:
            for rank in pod.ranks:
                self._start(rank, pod.master_port)
            return
        # Rank 0 gets the socket itself, not its number: nobody else can take the port before it listens.
        with socket.create_server((pod.master_address, 0), backlog=pod.world_size) as listener:
            for rank in pod.ranks:
                self._start(rank, listener.getsockname()[1], listener.fileno() if rank == 0 else None)

    def _start(self, rank: int, port: int, listener: int | None = None) -> None:
        pod = self._pod
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank - pod.ranks.start),
            "WORLD_SIZE": str(pod.world_size),
            "MASTER_ADDR": pod.master_address,
            "MASTER_PORT": str(port),
            "PHITUNE_CONFIG": str(self._config_path),
            "PHITUNE_LAUNCHER": str(os.getpid()),
            FOLDER_VARIABLE: str(self._reports),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        # Its warnings only puzzle: any pod whose address has no name gets some.
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // pod.processes)))
        if pod.nodes == 1:
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if listener is not None:
            environment[LISTENER_VARIABLE] = str(listener)
        process = subprocess.Popen(
            [sys.executable, "-m", "phitune_trainer.train"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the ranks through us, once
            pass_fds=[] if listener is None else [listener],
        )
        assert process.stdout is not None
        self._processes[rank] = process
        is_shown = rank == pod.ranks.start
        prefix = "" if rank == 0 else f"[rank {rank}] "
        self._outputs[rank] = RankOutput(
            process.stdout,
            find_log=lambda: read_report(self._reports, rank).logs,
            rank=rank,
            show=(lambda line: self._show(prefix + line)) if is_shown else None,
        )

    def _wait(self) -> dict[int, int]:
        """Wait for all ranks; the codes of those that ended before we made the others end."""
        failed_at: float | None = None
        by_themselves: dict[int, int] | None = None
        while self._poll():
            now = time.monotonic()
            self._pass_on_signals(now)
            if failed_at is None and any(map(self._is_failure, self._ended.values())):
                failed_at = now
            if failed_at is not None and by_themselves is None and now >= failed_at + _SETTLE_SECONDS:
                by_themselves = dict(self._ended)
                self._send(signal.SIGTERM)
            if failed_at is not None and now >= failed_at + _SETTLE_SECONDS + _SIBLINGS_SECONDS:
                self._send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        return dict(self._ended) if by_themselves is None else by_themselves

    def _poll(self) -> bool:
        """Take note of ranks that have ended; whether any is left."""
        if os.getpid() == 1:
            _reap_orphans({process.pid for process in self._processes.values()})
        for rank, process in self._processes.items():
            if rank not in self._ended and (code := process.poll()) is not None:
                self._ended[rank] = code
        return len(self._ended) < len(self._processes)

    def _is_failure(self, code: int) -> bool:
        return code not in (DONE, INTERRUPTED) and not (self._has_passed_on and code == -signal.SIGTERM)

    def _end_of(self, rank: int, code: int) -> RankEnd:
        if code == -signal.SIGKILL and rank in self._killed:
            message = f"rank {rank} was killed: {self._killed[rank]}"
            return RankEnd(128 + signal.SIGKILL, "Killed", message, self._outputs[rank].last_lines())
        if self._has_passed_on and code == -signal.SIGTERM:
            return RankEnd(INTERRUPTED, "Interrupted", "stopped before training began; nothing is lost", [])
        report = read_report(self._reports, rank)
        return RankEnd.of(rank, code, report, self._outputs[rank].last_lines())

    def _pass_on_signals(self, now: float) -> None:
        """The first signal asks the ranks to save and end; a second Ctrl-C, or the end of the grace, kills.

        A second SIGTERM changes nothing: Kubernetes sends one more to a pod that is deleted while it ends.
        """
        if self._signals.first_at is None:
            return
        if not self._has_passed_on:
            self._has_passed_on = True
            self._send(signal.SIGTERM)
        if self._signals.num_interrupts > 1:
            self._kill("a second Ctrl-C did not wait until it had saved")
        elif now >= self._signals.first_at + self._pod.grace_seconds:
            self._kill(f"it had not saved within {self._pod.grace_seconds:g} s of the signal")

    def _kill(self, why: str) -> None:
        for rank in self._processes.keys() - self._ended.keys():
            self._killed.setdefault(rank, why)
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)


def run_pod(config_path: Path, reports: Path, show: Callable[[str], None]) -> int:
    """Run this pod's share of the training from start to end; the exit code.

    `show` gets each line meant for people. The termination message is written where there is a place for it.
    To be called in the main thread.
    """
    signals = Signals()
    with signals.noted():
        return _run_pod(config_path, reports, show, signals)


def _run_pod(config_path: Path, reports: Path, show: Callable[[str], None], signals: Signals) -> int:
    try:
        config = load_config(config_path)
        pod = read_pod(os.environ, config)
    except (ConfigError, UserError) as error:
        show(str(error))
        node_rank = os.environ.get("PET_NODE_RANK", "0")
        ending = {"exitCode": USER_ERROR, "reason": "UserError", "message": str(error), "attempt": attempt()}
        write_termination({**ending, "nodeRank": int(node_rank) if node_rank.isdecimal() else 0, "ranks": []})
        return USER_ERROR
    launcher = Launcher(config_path, pod, reports, show, signals)
    ends = launcher.run()
    message = describe(ends, [read_report(reports, rank) for rank in pod.ranks])
    if message["failure"] is not None:
        rank = message["failure"]["rank"]
        if rank != pod.ranks.start:
            for line in message["failure"]["lastLines"]:
                show(f"[rank {rank}] {line}")
        show(f"failed: {message['message']}")
    write_termination({**message, "attempt": attempt(), "nodeRank": pod.node_rank})
    return int(message["exitCode"])


def _reap_orphans(ours: set[int]) -> None:
    """As process 1, take leave of processes whose parents are gone; our own ranks are left to `poll`."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid in ours:
            return
        os.waitpid(ended.si_pid, 0)


def main() -> int:
    """Run this pod for the config in $PHITUNE_CONFIG; the exit code."""
    config_path = Path(os.environ.get("PHITUNE_CONFIG", "/etc/phitune/train.yaml"))
    with tempfile.TemporaryDirectory(prefix="phitune-reports-", ignore_cleanup_errors=True) as folder:
        return run_pod(config_path, Path(folder), lambda line: print(inert(line), flush=True))


if __name__ == "__main__":
    sys.exit(main())
