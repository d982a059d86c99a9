"""Running other programs."""

from __future__ import annotations

import sys

import pytest

from imagebuild.process import BuildError, run


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
