"""The committed CRD on a cluster, for tests that need the API server and no operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.cluster import REPOSITORY, Cluster, CommandError, wait_for
from phitune_operator import names
from phitune_operator.generate import CRD_FILE

CRD = f"{names.PLURAL}.{names.GROUP}"


@contextmanager
def installed_crd(cluster: Cluster) -> Iterator[None]:
    """Install the CRD unless the chart has; removed again, so that the chart can bring its own later."""
    was_there = cluster.get("crd", CRD) is not None
    if not was_there:
        cluster.kubectl("apply", "--server-side", "-f", str(REPOSITORY / CRD_FILE))
        wait_for(lambda: _is_served(cluster), 60, lambda: f"{CRD} is not served")
    yield
    if not was_there:
        cluster.kubectl("delete", "crd", CRD, "--timeout=60s")


def _is_served(cluster: Cluster) -> bool:
    try:
        cluster.kubectl("get", CRD, "--all-namespaces")
    except CommandError:
        return False
    return True
