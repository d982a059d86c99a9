"""Running other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagebuild.process import BuildError, run

IMAGES = Path(__file__).resolve().parents[3] / "hack" / "images"


def test_output_of_a_command_is_returned() -> None:
    assert run([sys.executable, "-c", "print('hello')"], doing="greeting") == "hello\n"


def test_failed_command_says_what_it_was_for_and_what_it_wrote() -> None:
    with pytest.raises(BuildError, match=r"(?s)exit status 3\) while greeting.*no voice"):
        run([sys.executable, "-c", "import sys; print('no voice'); sys.exit(3)"], doing="greeting")


def test_missing_program_is_named() -> None:
    with pytest.raises(BuildError, match="no-such-program is not installed; it is needed while greeting"):
        run(["no-such-program"], doing="greeting")


def test_long_work_shows_signs_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    run([sys.executable, "-c", "import time; time.sleep(0.4)"], doing="greeting", sign_of_life=0.05)
    assert "still greeting" in capsys.readouterr().err


def test_an_interruption_ends_what_the_program_has_started_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = (
        "import pathlib, subprocess, sys, time;"
        f"worker = subprocess.Popen([sys.executable, '-c', {worker!r}]);"
        f"pathlib.Path({str(note)!r}).write_text(str(worker.pid));"
        "time.sleep(60)"
    )
    build = (
        "import signal, sys; from imagebuild.process import run;"
        # Where the tests run in the background, the signal is ignored, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"run([sys.executable, '-c', {parent!r}], doing='waiting', sign_of_life=0.1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", build],
        env={**os.environ, "PYTHONPATH": str(IMAGES)},
        stderr=subprocess.DEVNULL,
    ) as process:
        while not note.exists() or not note.read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    # A process that was killed is there until it gets its turn to die.
    deadline = time.monotonic() + 10
    while is_alive(note.read_text()):
        assert time.monotonic() < deadline, "what the program had started lives on"
        time.sleep(0.05)


def is_alive(pid: str) -> bool:
    """Whether a process is there, and more than a zombie."""
    try:
        return "Z (zombie)" not in Path("/proc", pid, "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
