"""Signals that reach the launcher at awkward moments."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.launch import Launcher, Pod


def test_a_signal_between_two_starts_reaches_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_process: Any = subprocess.Popen
    started = []

    def start_sleeper(command: list[str], **options: Any) -> Any:
        process = start_process(["sleep", "60"], **options)
        started.append(process)
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", start_sleeper)
    ends = Launcher(
        tmp_path, Pod(1, 0, 2, "127.0.0.1", 1, grace_seconds=50.0), tmp_path, lambda line: None
    ).run()
    assert len(started) == 2
    assert [(end.exit_code, end.reason) for end in ends.values()] == [(75, "Interrupted")] * 2
