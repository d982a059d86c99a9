"""One command at a time, where two would spoil each other's work."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import Console


@contextmanager
def alone(folder: Path, console: Console) -> Iterator[None]:
    """Nobody else at the same time, as long as everybody asks here. A lock on a folder leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.step(f"waiting for another command that has {folder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
