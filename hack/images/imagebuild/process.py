"""Running other programs: a sign of life while they work, and what they said only if they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LINES_SHOWN_ON_FAILURE = 30


class BuildError(Exception):
    """The build cannot go on. The message says what failed and, where it is known, what to do."""


def say(message: str) -> None:
    """Print one progress line at once, on stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def end_group(child: subprocess.Popen[bytes], grace: float = 10) -> None:
    """End a program and all that it started: asked first, killed after `grace` seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run(command: Sequence[str | Path], *, doing: str, sign_of_life: float = 15) -> str:
    """Run a command to its end and return what it wrote to stdout.

    `doing` completes the sentence "while ..." and names the work in errors and in the progress lines that
    appear every `sign_of_life` seconds. Raises BuildError, with the end of the output, if the command fails
    or does not exist.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,  # so that its children end with it
            )
        except FileNotFoundError as error:
            raise BuildError(f"{command[0]} is not installed; it is needed while {doing}") from error
        while True:
            try:
                status = child.wait(timeout=sign_of_life)
                break
            except subprocess.TimeoutExpired:
                say(f"  still {doing} ({time.monotonic() - began:.0f} s)")
            except BaseException:
                end_group(child)
                raise
        out.seek(0)
        err.seek(0)
        if status != 0:
            lines = (out.read() + err.read()).splitlines()[-LINES_SHOWN_ON_FAILURE:]
            shown = "\n".join(f"  | {line}" for line in lines)
            raise BuildError(f"{command[0]} failed (exit status {status}) while {doing}:\n{shown}")
        return out.read()
