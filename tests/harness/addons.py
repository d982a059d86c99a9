"""Other projects' controllers on the tests' cluster: compiled and installed for the tests that need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.cluster import OPERATOR_NAMESPACE, Cluster, run
from harness.installed import CHART, RELEASE, install
from harness.provision import hack_cluster

CRDS = {
    "jobset": "jobsets.jobset.x-k8s.io",
    "kueue": "workloads.kueue.x-k8s.io",
    "trainer": "trainjobs.trainer.kubeflow.org",
}
"""By which one sees that a cluster has a piece of hack/cluster."""
KUEUE = "kueue.x-k8s.io/v1beta1"


def add(cluster: Cluster, *pieces: str) -> None:
    """Bring these pieces onto a local cluster; skip the tests on another one that lacks any."""
    if cluster.is_local:
        extras = [part for piece in pieces for part in ("--with", piece)]
        run(hack_cluster("build", *extras), timeout=1800)
        run(hack_cluster("up", "--state", str(cluster.state), *extras), timeout=300)
    elif missing := [piece for piece in pieces if cluster.get("crd", CRDS[piece]) is None]:
        pytest.skip(f"this cluster has no {' and no '.join(missing)}, and is not ours to change")


@contextmanager
def told_backend(cluster: Cluster, name: str) -> Iterator[None]:
    """The operator told to run new gangs as this kind; it sees the kind since it was started again."""
    where = ("--namespace", OPERATOR_NAMESPACE, "--reuse-values", "--wait", "--timeout", "2m")
    cluster.helm("upgrade", RELEASE, CHART, *where, "--set-string", f"backend={name}")
    try:
        yield
    finally:
        install(cluster)


@contextmanager
def local_queue(cluster: Cluster, namespace: str, *, cpu: str, memory: str) -> Iterator[None]:
    """A LocalQueue `team` of the namespace with so much quota, where the urgent goes first."""
    flavor = f"{namespace}-any"
    quotas = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": memory}]
    cluster.apply(
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": flavor}},
        {
            "apiVersion": KUEUE,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [
                    {
                        "coveredResources": ["cpu", "memory"],
                        "flavors": [{"name": flavor, "resources": quotas}],
                    }
                ],
            },
        },
        {
            "apiVersion": KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": "team", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    )
    try:
        yield
    finally:
        cluster.kubectl("delete", f"clusterqueue/{namespace}", f"resourceflavor/{flavor}", "--wait=false")
