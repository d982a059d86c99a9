"""What a process asks of the kernel: its share of the CPUs, what killed another, and to end with its parent.
Imports no torch.
"""

import ctypes
import os
import signal
from pathlib import Path

from phitune_trainer.errors import FAULT

LISTENER_VARIABLE = "PHITUNE_LISTENER"
"""Tells rank 0 the number of the open socket on which the ranks of a single pod meet."""

_PR_SET_PDEATHSIG = 1


def available_cpus() -> int:
    """CPUs that this pod may use: those it may run on, or its cgroup's limit where that is lower."""
    cpus = len(os.sched_getaffinity(0))
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.is_file():
        quota, period = limit.read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def signal_name(number: int) -> str:
    """SIGTERM, say; those for real time have a number only."""
    return {one.value: one.name for one in signal.Signals}.get(number, f"signal {number}")


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it is gone, so that none is left behind.

    `parent` is the process that should be the parent: it may have gone before this was asked for.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAULT)
