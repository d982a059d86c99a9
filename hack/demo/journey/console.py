"""What the demo shows and runs: phases with their times, commands whose output streams below them.

Every command runs in a session of its own. A Ctrl-C at the terminal thus reaches the demo alone, and the
demo stops what it started, in order, and waits for it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .signals import held_back

INDENT = "  "
QUIET_SECONDS = 20
"""After so long without a line from a command, the demo says that it still runs."""
PATIENCE_SECONDS = 90
"""A command that was interrupted gets so long to tidy up before it is killed."""


class DemoError(Exception):
    """The journey ends here; the message says what, where and what to do."""


def minutes(seconds: float) -> str:
    """A duration as a person says it: 8 s, 2 min 05 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


class Console:
    """Prints the journey, keeps the time of each phase, and writes what the commands said to a file."""

    def __init__(self, log: Path, num_phases: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.times: list[tuple[str, float]] = []
        self.commands: list[Command] = []
        """All that were started; those that have ended do no harm here."""
        self._num_phases = num_phases
        self._file = log.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._width = max(60, shutil.get_terminal_size((100, 24)).columns)

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """A numbered heading, and below it the time that it took."""
        self.say(f"\n[{len(self.times) + 1}/{self._num_phases}] {title}")
        start = time.monotonic()
        yield
        took = time.monotonic() - start
        self.times.append((title, took))
        self.say(f"{INDENT}done in {minutes(took)}")

    def say(self, line: str = "") -> None:
        """Print one line of the demo's own, whole."""
        self._print(line, line)

    def relay(self, line: str, prefix: str = "") -> None:
        """Print one line of a command, indented; with a prefix cut to the terminal's width.

        The log file has it whole.
        """
        text = f"{INDENT}{prefix}{line.rstrip()}"
        fits = not prefix or len(text) <= self._width
        self._print(text if fits else text[: self._width - 3] + "...", text)

    def close(self) -> None:
        """Finish the log file."""
        self._file.close()

    def stop_commands(self) -> None:
        """Stop whatever still runs, wherever an interruption came."""
        for command in self.commands:
            command.stop()

    def _print(self, shown: str, kept: str) -> None:
        with self._lock:
            print(kept, file=self._file, flush=True)
            try:
                print(shown, flush=True)
            except OSError:  # The terminal is gone; tidying up after that must not fail for it.
                sys.stdout = self._file


class Command:
    """A running command, its lines relayed as they come.

    With `has_result` only what it says on stderr is shown, and stdout is its `result`.
    """

    def __init__(
        self, console: Console, argv: Sequence[str], *, prefix: str = "", has_result: bool = False
    ) -> None:
        self.argv = list(argv)
        self.last_line = ""
        self.last_time = time.monotonic()
        self._console = console
        self._prefix = prefix
        self._result = tempfile.TemporaryFile("w+") if has_result else None  # noqa: SIM115 (lives as long as this)
        with held_back():  # Interrupted between these two, the demo would not know what it has started.
            self._process = subprocess.Popen(
                self.argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=self._result or subprocess.PIPE,
                stderr=subprocess.PIPE if has_result else subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            console.commands.append(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        lines = self._process.stdout or self._process.stderr
        assert lines is not None, "one of them is a pipe"
        with lines:
            for line in lines:
                self.last_line, self.last_time = line.strip(), time.monotonic()
                self._console.relay(line, self._prefix)

    def finished(self) -> bool:
        """True once the command has ended and its last line is out."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def check(self) -> None:
        """Raise DemoError unless the command ended with 0."""
        self._process.wait()
        self._reader.join(timeout=5)
        if self._process.returncode:
            raise DemoError(
                f"`{' '.join(self.argv)}` ended with {self._process.returncode}. "
                f"What it said is above, and in full in {self._console.log}"
            )

    def result(self) -> str:
        """What it wrote to stdout; only with `has_result`."""
        assert self._result is not None, "asked for when it was started"
        self._result.seek(0)
        return self._result.read()

    def stop(self) -> None:
        """Interrupt the command as Ctrl-C would, wait while it tidies up, kill what is then left."""
        for name, patience in ((signal.SIGINT, PATIENCE_SECONDS), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, name)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


def run_all(console: Console, *commands: Command) -> None:
    """Wait for commands that run side by side; if one fails or the demo is interrupted, stop the others."""
    start = time.monotonic()
    try:
        while not all(command.finished() for command in commands):
            for command in commands:
                if command.finished():
                    command.check()
                elif time.monotonic() - command.last_time > QUIET_SECONDS:
                    command.last_time = time.monotonic()
                    took = minutes(time.monotonic() - start)
                    console.relay(
                        f"... {took} and still at: {command.last_line or Path(command.argv[1]).name}"
                    )
            time.sleep(0.2)
        for command in commands:
            command.check()
    finally:
        for command in commands:
            command.stop()
