"""How much memory this pod may still take. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

_KIB = 1024
_HELD = ("anon", "shmem")
"""Of a cgroup's memory, what cannot be given back: files that were read can."""


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that the machine has available, or that are left of the pod's limit where that is less."""
    on_machine = dict(_numbers(proc / "meminfo"))["MemAvailable"] * _KIB
    limit = cgroup / "memory.max"
    if not limit.is_file() or (most := limit.read_text(encoding="ascii").strip()) == "max":
        return on_machine
    used = dict(_numbers(cgroup / "memory.stat"))
    return max(0, min(on_machine, int(most) - sum(used[name] for name in _HELD)))


def _numbers(file: Path) -> Iterator[tuple[str, int]]:
    """The first two words of each line, such as `anon 4096` or `MemAvailable: 100 kB`."""
    for line in file.read_text(encoding="ascii").splitlines():
        name, number, *_ = line.split()
        yield name.rstrip(":"), int(number)
