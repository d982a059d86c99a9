"""A progress bar at the bottom of a terminal, fed from a rank's reports; log lines scroll above it."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_CLEAR_LINE = "\r\x1b[K"
_SECONDS = 0.25


class ProgressBar:
    """Draws while `drawing`; `show` prints a line above it."""

    def __init__(self, progress: Callable[[], dict[str, Any] | None]) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def show(self, line: str) -> None:
        """Print a line, but for those of single steps: the bar says the same."""
        if line.startswith("step "):
            return
        with self._lock:
            sys.stdout.write(f"{_CLEAR_LINE}{line}\n")
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
                with self._lock:
                    sys.stdout.write(_CLEAR_LINE + draw(progress, width - 1))
                    sys.stdout.flush()


def draw(progress: dict[str, Any], width: int) -> str:
    """One line of at most `width` characters: a bar where it fits, and the numbers a person asks for."""
    parts = [f"{progress['state']:10} {progress['step']}/{progress['totalSteps']}"]
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress["imagesPerSecond"] is not None:
        parts.append(f"{progress['imagesPerSecond']:.0f} images/s")
    if progress["etaSeconds"] is not None:
        minutes, seconds = divmod(progress["etaSeconds"], 60)
        parts.append(f"ETA {minutes}:{seconds:02}")
    text = "  ".join(parts)
    room = min(40, width - len(text) - 8)
    if room < 5:
        return text[:width]
    filled = round(room * progress["percent"] / 100)
    return f"{progress['percent']:3.0f}% {'█' * filled}{'░' * (room - filled)}  {text}"
