"""What memory a pod may still take, from the kernel's own files."""

from pathlib import Path

import pytest

from phitune_trainer.host_memory import available_memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine of which 10 GiB are available."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable:   {10 * 2**20} kB\n")
    return tmp_path


def limited(folder: Path, limit: str) -> Path:
    """A cgroup that holds 3 GiB, 1 GiB of it in /dev/shm, beside files that it has read."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text(f"anon {2 * GIB}\nfile {5 * GIB}\nkernel 7\nshmem {GIB}\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "available"),
    [
        pytest.param("max", 10 * GIB, id="no limit"),
        pytest.param(str(8 * GIB), 5 * GIB, id="what is left of the limit"),
        pytest.param(str(64 * GIB), 10 * GIB, id="the machine has less than the limit"),
        pytest.param(str(2 * GIB), 0, id="beyond the limit"),
    ],
)
def test_a_pod_may_take_what_its_limit_and_its_machine_leave(
    machine: Path, limit: str, available: int
) -> None:
    assert available_memory(machine, limited(machine, limit)) == available


def test_without_cgroups_the_machine_decides(machine: Path) -> None:
    assert available_memory(machine, machine / "none") == 10 * GIB


def test_this_machine_has_some() -> None:
    assert available_memory() > 0
