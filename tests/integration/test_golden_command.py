"""The whole golden check, as its command."""

import subprocess
import sys
from pathlib import Path

from harness.tiny_models import published_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def test_all_five_golden_cases_hold() -> None:
    published_folder()
    command = [sys.executable, GOLDEN / "check.py", GOLDEN / "phi35-vision"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 5
