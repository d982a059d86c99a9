"""Where the tests' clusters come from, and where they go."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.cluster import REPOSITORY, Cluster, run

STATES = Path("/var/tmp/phitune-cluster")
"""Holds the state folders: the tests' clusters lie beside that of a demo, which may run at the same time."""
NUM_NODES = 2
MOST_RUNS = 8
"""Test runs at once on one machine; no machine is large enough for more."""


@contextmanager
def provided_cluster(*options: str) -> Iterator[Cluster]:
    """The cluster of KUBECONFIG, or a local one (with `options` of `up`) that lives as long as the tests."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(Path(given), _on_path("kubectl"), _on_path("helm"), state=None)
        return
    with reserved_name() as name:
        run(hack_cluster("build"), timeout=1800)
        with local_cluster(STATES / name, "--audit-log", *options) as cluster:
            yield cluster


@contextmanager
def reserved_name() -> Iterator[str]:
    """A name for a cluster that no other test run on this machine uses now.

    A socket without a file holds it. The kernel forgets that one when this process ends, however it ends; so
    the next run takes the same name, and takes away what a killed one has left.
    """
    for name in ("tests", *(f"tests-{number}" for number in range(2, MOST_RUNS + 1))):
        with socket.socket(socket.AF_UNIX) as holder:
            try:
                holder.bind(f"\0phitune-cluster-{name}")
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
                continue
            yield name
            return
    raise RuntimeError(f"{MOST_RUNS} test runs have a cluster on this machine; wait until one has ended")


@contextmanager
def local_cluster(state: Path, *options: str) -> Iterator[Cluster]:
    """A local cluster of two nodes (`options` of `up` come after that), taken away in the end."""
    try:
        # What an earlier run may have left, killed before it could tidy up.
        run(hack_cluster("down", "--state", str(state)), timeout=300)
        run(hack_cluster("up", "--state", str(state), "--nodes", str(NUM_NODES), *options), timeout=300)
        yield local(state)
    finally:
        run(hack_cluster("down", "--state", str(state)), timeout=300)


def local(state: Path) -> Cluster:
    """The local cluster of a state folder."""
    programs = state / "bin"
    return Cluster(state / "kubeconfig", str(programs / "kubectl"), str(programs / "helm"), state=state)


def load(cluster: Cluster, archives: Sequence[str]) -> None:
    """Bring images into every node of a local cluster."""
    run(hack_cluster("load", "--state", str(cluster.state), *archives), timeout=300)


def hack_cluster(*args: str) -> list[str]:
    """The command line of hack/cluster."""
    return [sys.executable, str(REPOSITORY / "hack/cluster"), *args]


def _on_path(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise RuntimeError(f"{program} is not on the PATH; tests on the cluster of KUBECONFIG need it")
    return found
