"""Test runs at the same time on one machine have clusters of their own."""

from __future__ import annotations

import subprocess
import sys

from harness.cluster import REPOSITORY
from harness.provision import reserved_name

OTHER_RUN = "from harness.provision import reserved_name\nwith reserved_name() as name: print(name)"


def name_in_another_run() -> str:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_RUN],
        env={"PYTHONPATH": str(REPOSITORY / "tests")},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_run_beside_another_gets_another_name() -> None:
    with reserved_name() as mine:
        assert name_in_another_run() != mine


def test_name_is_free_again_when_its_run_has_ended_however_it_ended() -> None:
    with reserved_name() as mine:
        assert reserved_after_a_kill() not in ("", mine)
    with reserved_name() as again:
        assert again == mine


def reserved_after_a_kill() -> str:
    """The name that another run had when it was killed."""
    script = OTHER_RUN.replace("print(name)", "print(name, flush=True); os.kill(os.getpid(), 9)")
    done = subprocess.run(
        [sys.executable, "-c", f"import os\n{script}"],
        env={"PYTHONPATH": str(REPOSITORY / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    return done.stdout.strip()
