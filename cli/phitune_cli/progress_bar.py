"""A progress bar at the bottom of a terminal, fed from a rank's reports; log lines scroll above it."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from phitune_trainer.durations import duration
from phitune_trainer.plain_text import inert

_CLEAR_LINE = "\r\x1b[K"
_SECONDS = 0.25
_STEP: Final = re.compile(r"step +\d+/\d+  ")
"""How the line of a step begins (logs.step_line); other lines about a step are news."""
_NUMBERS_OF: Final = ("training", "saving", "done")
"""States in which the newest numbers of the steps are still news."""


def can_draw() -> bool:
    """Whether standard output is a terminal that can go back to the beginning of a line."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """Draws while `drawing`; `show` prints a line above it."""

    def __init__(self, progress: Callable[[], dict[str, Any] | None]) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def show(self, line: str) -> None:
        """Print a line, but for those of single steps: the bar says the same."""
        if _STEP.match(line):
            return
        with self._lock:
            sys.stdout.write(f"{_CLEAR_LINE}{inert(line)}\n")
            sys.stdout.flush()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Keep the bar up to date within this block."""
        thread = threading.Thread(target=self._run, name="progress-bar", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._closed.set()
            thread.join()
            sys.stdout.write(_CLEAR_LINE)
            sys.stdout.flush()

    def _run(self) -> None:
        while not self._closed.wait(_SECONDS):
            progress = self._progress()
            if progress is not None:
                width = shutil.get_terminal_size().columns
                line = draw(progress, width - 1).encode(sys.stdout.encoding, "replace")
                with self._lock:
                    sys.stdout.write(_CLEAR_LINE + line.decode(sys.stdout.encoding))
                    sys.stdout.flush()


def draw(progress: dict[str, Any], width: int) -> str:
    """One line of at most `width` characters: a bar where it fits, and the numbers a person asks for."""
    parts = [f"{progress['state']:10} {progress['step']}/{progress['totalSteps']}"]
    if progress["state"] in _NUMBERS_OF:
        parts += _numbers(progress)
    text = "  ".join(parts)
    room = min(40, width - len(text) - 8)
    if room < 5:
        return text[:width]
    filled = round(room * progress["percent"] / 100)
    return f"{progress['percent']:3.0f}% {'█' * filled}{'░' * (room - filled)}  {text}"


def _numbers(progress: dict[str, Any]) -> Iterator[str]:
    """Those that are known."""
    if progress["loss"] is not None:
        yield f"loss {progress['loss']:.4f}"
    if progress["imagesPerSecond"] is not None:
        yield f"{progress['imagesPerSecond']:.0f} images/s"
    if progress.get("memoryBytes") is not None:  # only training knows it
        yield f"{progress['memoryBytes'] / 2**30:.1f} GiB"
    if progress["etaSeconds"] is not None:
        yield f"ETA {duration(progress['etaSeconds'])}"
