"""Running the system's own programs (ip, mount, openssl, ...), with their words in the error."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .console import ClusterError

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(ClusterError):
    """A program exited with an error."""


def run(command: Sequence[str | Path], *, stdin: str | None = None) -> str:
    """Run to the end and return stdout; a failure raises with the command and its last words."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise CommandError(f"{' '.join(words)}\n  exited with {done.returncode}: {said}")
    return done.stdout


def in_network(namespace: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """The same command inside a network namespace.

    nsenter and not `ip netns exec`: the latter mounts /sys anew and with that hides the cgroups.
    """
    return ["nsenter", f"--net={namespace}", "--", *command]
