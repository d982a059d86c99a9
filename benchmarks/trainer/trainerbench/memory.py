"""Memory and disk that processes use, as the kernel counts it."""

import os
from pathlib import Path

GIB = 2**30


def peak_resident_bytes() -> int:
    """The most resident memory that this process has had, files mapped into it included."""
    return _field(os.getpid(), "VmHWM")


def tree_resident_bytes() -> int:
    """Resident memory of this process and all that it has started, each counted in full."""
    return sum(_field(pid, "VmRSS") for pid in _tree(os.getpid()))


def bytes_from_disk() -> int:
    """What this process has read so far that was not in the page cache."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def _tree(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _tree(int(child))
    return found


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended and not been waited for has no memory
