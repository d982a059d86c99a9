"""What local clusters, image builds and demos leave on this machine, as a set of words to compare."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness.cluster import wait_for

MARK = "PHITUNE_TEST_MARK"
"""Environment variable by which a test knows the processes that it has started, at whatever distance."""
HALF_WRITTEN = ("images/packages-*", "images/archives/.new-*", "images/layers/.new-*", "cluster/bin/.*")
"""Parts of the cache that nothing but a running build has."""
OF_OTHERS = ("namespace ", "mount ", "half-written ", "folder /tmp/phitune-images-")
"""What a test beside makes where it builds an image or starts a process apart."""
PATIENCE = 180.0
"""Seconds that it may need for that."""


def wait_until_gone(before: set[str], mark: str = "") -> None:
    """Check that nothing is left but what was `before`; what tests beside make for a while may go first."""
    mine = {trace for trace in traces(mark) - before if not trace.startswith(OF_OTHERS)}
    assert mine == set()
    wait_for(
        lambda: traces(mark) <= before,
        PATIENCE,
        lambda: "left over:\n" + "\n".join(sorted(traces(mark) - before)),
    )


def traces(mark: str = "") -> set[str]:
    """Everything that could be left; `mark` is the value of MARK of processes that must be gone."""
    return {*_files(), *_network(), *_processes(mark)}


def _files() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield f"mount {line.split()[4]}"
    groups = Path("/sys/fs/cgroup")
    for path in [*groups.glob("phitune*"), *groups.glob("*/phitune*")]:
        yield f"control group {path}"
    for path in [*Path("/var/tmp/phitune-cluster").glob("*"), *Path("/tmp").glob("phitune-images-*")]:
        yield f"folder {path}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phitune"
    for pattern in HALF_WRITTEN:
        for path in cache.glob(pattern):
            yield f"half-written {path}"


def _network() -> Iterator[str]:
    for kind, command in {
        "link": ["ls", "/sys/class/net"],
        "route": ["ip", "route", "show", "table", "all"],
        "rule": ["iptables-save"],
    }.items():
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield from (f"{kind} {line}" for line in said.splitlines() if kind != "rule" or line.startswith("-A"))


def _processes(mark: str) -> Iterator[str]:
    """Marked ones, and the namespaces that hold any process at all."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for kind in ("net", "mnt"):
                yield f"namespace {(process / 'ns' / kind).readlink()}"
            if mark and f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"process {process.name} {words}"
        except OSError:  # It has ended since the folder was listed.
            continue
