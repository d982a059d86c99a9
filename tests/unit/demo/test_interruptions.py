"""Ctrl-C, a closed terminal and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from journey.signals import SIGNALS, Interrupted, held_back, ignore_signals, raise_on_signals

DEMO = Path(__file__).resolve().parents[3] / "hack" / "demo"


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """What a test sets is gone after it."""
    before = {name: signal.getsignal(name) for name in SIGNALS}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize("name", SIGNALS)
def test_first_signal_interrupts_and_later_ones_do_nothing(name: signal.Signals) -> None:
    raise_on_signals()
    with pytest.raises(Interrupted, match=name.name):
        signal.raise_signal(name)
    for later in SIGNALS:
        signal.raise_signal(later)


def test_signal_waits_for_the_end_of_what_must_be_done_whole() -> None:
    raise_on_signals()
    done = []

    def start() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            done.append("whole")

    with pytest.raises(Interrupted, match="SIGINT"):
        start()
    assert done == ["whole"]


def test_signal_that_is_ignored_stays_so_after_what_must_be_done_whole() -> None:
    ignore_signals()
    with held_back():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def test_command_at_work_is_asked_to_stop_and_waited_for(tmp_path: Path) -> None:
    note = tmp_path / "note"
    tidy = (
        "import pathlib, time\n"
        "try:\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.2)\n"
        f"    pathlib.Path({str(note)!r}).write_text('tidy')\n"
    )
    demo = (
        "import sys; from pathlib import Path\n"
        "from journey.console import Command, Console, run_all\n"
        "from journey.signals import Interrupted, raise_on_signals\n"
        f"console = Console(Path({str(tmp_path / 'log')!r}), 1)\n"
        "raise_on_signals()\n"
        f"try: run_all(console, Command(console, [sys.executable, '-c', {tidy!r}]))\n"
        "except Interrupted: sys.exit(130)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", demo],
        env={**os.environ, "PYTHONPATH": str(DEMO)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "at work" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert note.read_text() == "tidy"
