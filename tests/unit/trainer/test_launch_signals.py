"""Signals that reach process 1 of a pod at awkward moments."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.exit_codes import INTERRUPTED
from phitune_trainer.launch import Launcher, Pod, Signals
from phitune_trainer.pod_ending import RankEnd

SLEEP = ["sleep", "60"]

needs_process_1 = pytest.mark.skipif(
    subprocess.run(["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode != 0,
    reason="a process 1 of its own is not allowed here",
)


def process(on_signal: str) -> list[str]:
    """A process that says when it is ready, in a file of the folder too, and does this when told to stop."""
    code = f"""
import os, pathlib, signal, sys, time
def on_signal(*_):
    {on_signal}
signal.signal(signal.SIGTERM, on_signal)
print("ready", flush=True)
pathlib.Path(sys.argv[1], "ready-" + os.environ["RANK"]).touch()
time.sleep(60)
"""
    return [sys.executable, "-c", code]


SAVES_FOR_A_SECOND = process("time.sleep(1); sys.exit(75)")
NEVER_SAVES = process("time.sleep(60)")


@contextmanager
def ranks_are(command: Sequence[str], on_start: Callable[[int], None]) -> Iterator[None]:
    """Let the launcher start other processes than training ones; `on_start` gets how many there are."""
    start_process: Any = subprocess.Popen
    started = []

    def start(_: object, **options: Any) -> Any:
        started.append(start_process(command, **options))
        on_start(len(started))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", start)
        yield


def launched(folder: Path, *, grace: float, show: Callable[[str], None]) -> dict[int, RankEnd]:
    signals = Signals()
    with signals.noted():
        pod = Pod(1, 0, 2, "127.0.0.1", None, grace_seconds=grace)
        return Launcher(folder, pod, folder, show, signals).run()


def nothing(_: object) -> None:
    pass


def send_when_ready(folder: Path, wait_until: Any, *numbers: signal.Signals) -> Callable[[str], None]:
    """What to do with rank 0's lines: once both ranks are ready, send this process signals, one by one."""

    def send() -> None:
        wait_until(lambda: len([*folder.glob("ready-*")]) == 2)
        for number in numbers:
            time.sleep(0.3)
            os.kill(os.getpid(), number)

    return lambda line: threading.Thread(target=send).start() if line == "ready" else None


def test_a_signal_between_two_starts_reaches_every_rank(tmp_path: Path) -> None:
    def interrupt(num_started: int) -> None:
        if num_started == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with ranks_are(SLEEP, interrupt):
        ends = launched(tmp_path, grace=50, show=nothing)
    assert [(end.exit_code, end.reason) for end in ends.values()] == [(75, "Interrupted")] * 2


def test_a_second_request_from_kubernetes_lets_the_ranks_save(tmp_path: Path, wait_until: Any) -> None:
    show = send_when_ready(tmp_path, wait_until, signal.SIGTERM, signal.SIGTERM)
    with ranks_are([*SAVES_FOR_A_SECOND, str(tmp_path)], nothing):
        ends = launched(tmp_path, grace=50, show=show)
    assert [end.exit_code for end in ends.values()] == [75, 75]


@pytest.mark.parametrize(
    ("numbers", "grace", "why"),
    [
        pytest.param(
            (signal.SIGINT, signal.SIGINT), 50, "a second Ctrl-C did not wait", id="a second Ctrl-C"
        ),
        pytest.param((signal.SIGTERM,), 0.5, "it had not saved within 0.5 s of the signal", id="too long"),
    ],
)
def test_ranks_that_do_not_save_are_killed_by(
    numbers: tuple[signal.Signals, ...], grace: float, why: str, tmp_path: Path, wait_until: Any
) -> None:
    with ranks_are([*NEVER_SAVES, str(tmp_path)], nothing):
        ends = launched(tmp_path, grace=grace, show=send_when_ready(tmp_path, wait_until, *numbers))
    assert [(end.exit_code, end.reason) for end in ends.values()] == [(137, "Killed")] * 2
    assert ends[1].message.startswith(f"rank 1 was killed: {why}")


@needs_process_1
@pytest.mark.parametrize("module", ["launch", "prepare"])
def test_a_signal_ends_process_1_while_it_still_imports(module: str, tmp_path: Path, wait_until: Any) -> None:
    """The kernel drops signals that process 1 does not listen for."""
    slow_import = "import pathlib, time; pathlib.Path('importing').touch(); time.sleep(60)"
    (tmp_path / "pydantic.py").write_text(slow_import)
    process_1 = [sys.executable, "-m", f"phitune_trainer.{module}"]
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *process_1], cwd=tmp_path) as parent:
        try:
            wait_until((tmp_path / "importing").is_file, seconds=30)
            [pid] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            os.kill(int(pid), signal.SIGTERM)
            assert parent.wait(30) == INTERRUPTED
        finally:
            parent.kill()
