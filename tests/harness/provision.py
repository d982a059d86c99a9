"""Where the tests' cluster comes from, and where it goes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.cluster import REPOSITORY, Cluster, run

STATE = Path("/var/tmp/phitune-cluster/tests")
"""Folder of the tests' local cluster: beside that of a demo, which may run at the same time."""
NUM_NODES = 2


@contextmanager
def provided_cluster() -> Iterator[Cluster]:
    """The cluster of KUBECONFIG, or a local one that lives as long as the tests."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(Path(given), _on_path("kubectl"), _on_path("helm"), is_local=False)
        return
    try:
        run(_local("build"), timeout=1800)
        # What an earlier run may have left, killed before it could tidy up.
        run(_local("down", "--state", str(STATE)), timeout=120)
        run(_local("up", "--state", str(STATE), "--nodes", str(NUM_NODES)), timeout=300)
        programs = STATE / "bin"
        yield Cluster(STATE / "kubeconfig", str(programs / "kubectl"), str(programs / "helm"), is_local=True)
    finally:
        run(_local("down", "--state", str(STATE)), timeout=120)


def load(archives: Sequence[str]) -> None:
    """Bring images into every node of the local cluster."""
    run(_local("load", "--state", str(STATE), *archives), timeout=300)


def _local(*args: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "hack/cluster"), *args]


def _on_path(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise RuntimeError(f"{program} is not on the PATH; tests on the cluster of KUBECONFIG need it")
    return found
