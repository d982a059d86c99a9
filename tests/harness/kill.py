"""Killing processes of pods as an out-of-memory killer or a crash would, and making them hang."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.cluster import Object
from harness.lab import Lab

SIGNAL_ONE_RANK = """
import os, pathlib, sys
children = pathlib.Path("/proc/1/task/1/children").read_text().split()  # a rank's own are its data workers
ranks = [int(pid) for pid in children
         if b"phitune_trainer.train" in pathlib.Path("/proc", pid, "cmdline").read_bytes()]
os.kill(max(ranks), int(sys.argv[1]))
print(len(ranks))
"""


def kill_a_rank(lab: Lab, pod: str) -> None:
    """Kill one training process in a pod; its launcher lives on to report it."""
    assert int(lab.exec_python(pod, SIGNAL_ONE_RANK, str(signal.SIGKILL.value))) > 0


def hang_a_rank(lab: Lab, pod: str) -> None:
    """Stop one training process in a pod for good, without an end that anybody could notice."""
    assert int(lab.exec_python(pod, SIGNAL_ONE_RANK, str(signal.SIGSTOP.value))) > 0


def kill_container(lab: Lab, pod: Object) -> None:
    """Kill process 1 of a pod's container, which nothing inside the container could do."""
    if not lab.cluster.is_local:
        pytest.skip("reaches into the node's processes, which takes a local cluster")
    os.kill(first_process(pod), signal.SIGKILL)


def first_process(pod: Object) -> int:
    """Process 1 of a pod's container, by the pid that it has on this machine."""
    uid = pod["metadata"]["uid"]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"pod{uid}" in (process / "cgroup").read_text() and _is_first(process):
                found.append(int(process.name))
        except OSError:  # It has ended since the folder was listed.
            continue
    (first,) = found
    return first


def _is_first(process: Path) -> bool:
    """Whether it is process 1 of a container other than that which holds the pod's namespaces."""
    status = (process / "status").read_text().splitlines()
    (numbers,) = [line.split()[1:] for line in status if line.startswith("NSpid:")]
    return numbers[-1] == "1" and (process / "cmdline").read_bytes().split(b"\0")[0] != b"/pause"
