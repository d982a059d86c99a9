"""Taking a cluster away without a trace, whatever state it is in.

Nothing here trusts the records: processes are found by their control group, mounts by their path, the link by
its name, all of which follow from the state folder. The records add only what was started and lost its group.
"""

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroups, egress, mounts, network, processes
from .console import ClusterError, Console
from .locks import alone
from .paths import BASE, Paths
from .plan import tag_of

NUM_HANDS = 16
"""Folders that are emptied at once."""


def down(paths: Paths, console: Console) -> bool:
    """Remove everything; whether there was anything."""
    if not paths.state.exists():
        return _down(paths, console)
    with alone(paths.state, console):
        return _down(paths, console)


def _down(paths: Paths, console: Console) -> bool:
    tag = tag_of(paths.state)
    killed = cgroups.kill(tag)
    for record in processes.read_all(paths.processes):
        record.identity.send(signal.SIGKILL)
    if killed:
        console.step(f"{killed} processes ended")
    if egress.remove(tag):
        console.step("the way out is closed")
    had_link = network.remove_host_link(tag)
    unmounted = mounts.unmount_below(paths.state)
    if unmounted:
        console.step(f"{unmounted} mounts and network namespaces removed")
    had_groups = cgroups.remove(tag)
    had_traces = bool(killed or unmounted) or had_link or had_groups
    had_state = _remove_state(paths, is_ours=had_traces)
    had_any = had_traces or had_state
    console.step(f"nothing of {paths.state} is left" if had_any else f"no cluster at {paths.state}")
    return had_any


def _remove_state(paths: Paths, *, is_ours: bool) -> bool:
    if not paths.state.exists():
        return False
    if not is_ours and not paths.record.exists() and any(paths.state.iterdir()):
        raise ClusterError(f"{paths.state} holds files that are not a cluster's; they stay")
    # The record goes last, so that an interrupted removal is known as ours the next time.
    for child in sorted(paths.state.iterdir(), key=lambda child: child == paths.record):
        if child.is_dir() and not child.is_symlink():
            remove_tree(child)
        else:
            child.unlink()
    paths.state.rmdir()
    if paths.state.parent == BASE and not any(BASE.iterdir()):
        BASE.rmdir()
    return True


def remove_tree(folder: Path) -> None:
    """Remove a folder with all in it, many files at once.

    A node's disk holds tens of thousands of files, and on some machines each removal waits for the real disk.
    """
    with ThreadPoolExecutor(NUM_HANDS) as hands:
        for _ in hands.map(_remove_files, [path for path, _, _ in os.walk(folder)]):
            pass
    shutil.rmtree(folder)


def _remove_files(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry)
