"""Starting programs in the background, and knowing later whether a pid is still the same process.

A pid alone says nothing: the kernel gives it to another process some day. Together with the moment at which
the process started, and the boot, it is unique.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .console import ClusterError
from .paths import write_atomically
from .shell import SEARCH_PATH

SHELL = "/bin/sh"
Outcome = Literal["running", "started", "restarted"]


@dataclass(frozen=True)
class Identity:
    """A process, and never another one that got its pid later."""

    pid: int
    started: int
    """Clock ticks from the boot to the start of the process."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has this pid now; None when there is none, or only its remains."""
        try:
            status, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if status in "ZX" else cls(pid, started, _boot())

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """A signal to this very process."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def seconds(self) -> float:
        """Age."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")


def parse_stat(text: str) -> tuple[str, int]:
    """Status letter and start time from /proc/PID/stat; its second field may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Daemon:
    """A program to keep in the background."""

    name: str
    argv: Sequence[str | Path]
    groups: Sequence[Path]
    """The files of its control group that take its pid."""
    network: Path | None = None
    mounts: Path | None = None
    """Namespaces to enter; None is this machine's own."""
    files: Sequence[Path] = ()
    """Configuration: a change restarts the program."""
    depends: str = ""
    """Anything else whose change restarts it."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes when the running program is no longer the one described."""
        digest = hashlib.sha256()
        words = [*map(str, self.argv), str(self.network), str(self.mounts), self.depends]
        digest.update(json.dumps([words, dict(self.environment)]).encode())
        for path in self.files:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> list[str]:
        """A shell that joins the control group, then becomes the program: the pid stays the same."""
        enter: list[str] = []
        if self.network or self.mounts:
            enter.append("nsenter")
            enter += [f"--net={self.network}"] if self.network else []
            enter += [f"--mount={self.mounts}"] if self.mounts else []
            enter.append("--")
        join = 'cd /; while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'
        return [SHELL, "-ec", join, self.name, *map(str, self.groups), "--", *enter, *map(str, self.argv)]


@dataclass(frozen=True)
class Record:
    """A started daemon, as kept in the state folder."""

    name: str
    identity: Identity
    fingerprint: str

    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.identity.is_alive()


def read(folder: Path, name: str) -> Record | None:
    """What is recorded of one daemon."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    return Record(name, Identity(data["pid"], data["started"], data["boot"]), data["fingerprint"])


def read_all(folder: Path) -> list[Record]:
    """What is recorded of all."""
    names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    return [record for name in names if (record := read(folder, name)) is not None]


def ensure(daemon: Daemon, records: Path, logs: Path) -> Outcome:
    """Make the daemon run as described; leave it alone if it does already."""
    before = read(records, daemon.name)
    if before is not None and before.is_alive():
        if before.fingerprint == daemon.fingerprint():
            return "running"
        stop(before.identity)
    start(daemon, records, logs)
    return "started" if before is None else "restarted"


def start(daemon: Daemon, records: Path, logs: Path) -> Identity:
    """Start the program and record it."""
    logs.mkdir(parents=True, exist_ok=True)
    log = os.open(logs / f"{daemon.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # Not subprocess, which wants to see its children end: this one outlives us.
        pid = os.posix_spawn(
            SHELL,
            daemon.command(),
            {"PATH": SEARCH_PATH, "HOME": "/root", **daemon.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
    identity = Identity.of(pid)
    if identity is None:
        raise ClusterError(f"{daemon.name} ended at once\n{last_lines(logs, daemon.name)}")
    facts = {"pid": identity.pid, "started": identity.started, "boot": identity.boot}
    write_atomically(
        records / f"{daemon.name}.json", json.dumps({**facts, "fingerprint": daemon.fingerprint()}) + "\n"
    )
    return identity


def stop(identity: Identity, *, seconds: float = 10.0) -> None:
    """Ask it to end, then make it."""
    identity.send(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while identity.is_alive():
        if time.monotonic() > deadline:
            identity.send(signal.SIGKILL)
        time.sleep(0.02)


def last_lines(logs: Path, name: str, count: int = 8) -> str:
    """The end of a daemon's log, for an error message."""
    path = logs / f"{name}.log"
    if not path.exists():
        return f"{path} does not exist"
    lines = path.read_text(errors="replace").splitlines()[-count:]
    return "\n".join([f"the end of {path}:", *(f"  {line}" for line in lines)])
