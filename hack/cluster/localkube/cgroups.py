"""Control groups: where a cluster's processes are counted, and how all of them are found again.

Every process that this package starts, and every container below it, is in a group under `<tag>/`. What is
in there is ours without doubt, whatever was recorded. Version 1 has a tree per controller, version 2 has one.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import ClusterError
from .processes import Identity

V2_CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree of control groups."""

    root: Path
    is_v2: bool


def parse_mounts(mountinfo: str) -> list[Hierarchy]:
    """All mounted trees."""
    found: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0]
        if kind in ("cgroup", "cgroup2"):
            found.append(Hierarchy(Path(before.split()[4]), is_v2=kind == "cgroup2"))
    return found


def in_charge(trees: Sequence[Hierarchy]) -> list[Hierarchy]:
    """Those with controllers. A hybrid machine's version 2 tree has none: runc uses it, we need not."""
    return [tree for tree in trees if not tree.is_v2] or list(trees)


def hierarchies() -> list[Hierarchy]:
    """The trees of this machine."""
    found = parse_mounts(Path("/proc/self/mountinfo").read_text())
    if not found:
        raise ClusterError("no control groups are mounted below /sys/fs/cgroup", exit_code=2)
    return found


def create(group: str) -> None:
    """The group, ready to hold processes and further groups."""
    for tree in in_charge(hierarchies()):
        folder = tree.root
        for part in Path(group).parts:
            if tree.is_v2:
                _delegate(folder)
            folder = folder / part
            folder.mkdir(exist_ok=True)
            if (folder / "cpuset.cpus").exists() and not tree.is_v2:
                # A version 1 cpuset starts empty and takes no process before it is filled.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (folder / name).write_text((folder.parent / name).read_text())


def _delegate(folder: Path) -> None:
    """Version 2: let the groups below have the controllers that this one has."""
    available = (folder / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in V2_CONTROLLERS if name in available)
    (folder / "cgroup.subtree_control").write_text(wanted)


def prefer(group: str) -> None:
    """Let the group count as much as eight processes when the processor is short.

    A group counts as one process beside it, however many are in it. On a machine that is busy with something
    else, nodes would then miss their heartbeats.
    """
    for tree in in_charge(hierarchies()):
        for name, value in (("cpu.shares", "8192"), ("cpu.weight", "800")):
            if (tree.root / group / name).exists():
                (tree.root / group / name).write_text(value)


def process_files(group: str) -> list[Path]:
    """Writing a pid into each of these moves a process into the group."""
    return [tree.root / group / "cgroup.procs" for tree in in_charge(hierarchies())]


def members(group: str) -> set[int]:
    """Processes in the group or in any below it, in any tree."""
    found: set[int] = set()
    for tree in hierarchies():
        for folder, _, _ in os.walk(tree.root / group):
            try:
                found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
            except OSError:
                continue  # The group went away while we walked: it had no members.
    return {pid for pid in found if Identity.of(pid) is not None}


def kill(group: str, *, seconds: float = 20.0) -> int:
    """SIGKILL to all members until there are none; how many there were."""
    seen: set[int] = set()
    deadline = time.monotonic() + seconds
    while alive := members(group):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {sorted(alive)} in control group {group} do not end")
        seen |= alive
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    return len(seen)


def remove(group: str, *, seconds: float = 10.0) -> bool:
    """Take the group and all below it away; whether there was one."""
    existed = False
    for tree in hierarchies():
        top = tree.root / group
        if not top.is_dir():
            continue
        existed = True
        deadline = time.monotonic() + seconds
        for folder, _, _ in os.walk(top, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as problem:
                    # The kernel lets go of a group some moments after its last process.
                    if time.monotonic() > deadline:
                        raise ClusterError(f"control group {folder}: {problem}") from problem
                    time.sleep(0.02)
    return existed
