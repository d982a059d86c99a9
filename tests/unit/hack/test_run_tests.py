"""`make test` runs two kinds of tests side by side: what is shown of them, and how they are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_tests import show, total

REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


def report(folder: Path, name: str, *counts: int) -> Path:
    path = folder / f"{name}.xml"
    path.write_text(REPORT.format(*counts))
    return path


def test_last_line_counts_the_tests_of_all_parts(tmp_path: Path) -> None:
    reports = [report(tmp_path, "python", 10, 1, 0, 2), report(tmp_path, "cluster", 5, 0, 2, 1)]
    assert total(reports) == "total: 9 passed, 3 failed, 3 skipped"


def test_part_that_ended_before_its_tests_is_named(tmp_path: Path) -> None:
    reports = [report(tmp_path, "python", 10, 0, 0, 0), tmp_path / "cluster.xml"]
    assert total(reports) == "cluster ended early: see above"


def test_what_ran_beside_is_shown_from_its_beginning_to_its_end(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log = tmp_path / "log"
    script = "import time; print('first', flush=True); time.sleep(0.7); print('last'); raise SystemExit(3)"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=output)
    assert show(log, process) == 3
    assert capfdbinary.readouterr().out == b"first\nlast\n"
