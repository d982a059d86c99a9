"""Two operators of one release, as the chart's `replicas: 2` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.cluster import OPERATOR_NAMESPACE, Cluster, Object, wait_for
from harness.installed import CHART, RELEASE, Installed, install
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.lab import Lab

pytestmark = pytest.mark.timeout(600)
PROMISED = 20.0
"""Seconds within which another operator is at work."""


@pytest.fixture
def two_replicas(phitune: Installed) -> Iterator[list[Object]]:
    """The release's two operators, once both are ready."""
    cluster = phitune.cluster
    where = ("--namespace", OPERATOR_NAMESPACE, "--reuse-values", "--wait", "--timeout", "2m")
    try:
        cluster.helm("upgrade", RELEASE, CHART, *where, "--set", "replicas=2")
        selector = f"app.kubernetes.io/instance={RELEASE}"
        cluster.kubectl(
            "rollout", "status", "deployment", RELEASE, "-n", OPERATOR_NAMESPACE, "--timeout", "60s"
        )
        pods = [pod for pod in cluster.list("pods", OPERATOR_NAMESPACE, selector) if is_ready(pod)]
        assert len(pods) == 2
        yield pods
    finally:
        install(cluster)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def holder(cluster: Cluster) -> str:
    """Whoever holds the Lease: a pod's name, and its process."""
    lease: Any = cluster.get("lease", RELEASE, OPERATOR_NAMESPACE)
    return str(lease["spec"].get("holderIdentity") or "")


def test_when_the_operator_at_work_is_killed_the_one_on_the_other_node_goes_on(
    two_replicas: list[Object], lab: Lab
) -> None:
    assert len({pod["spec"]["nodeName"] for pod in two_replicas}) == 2
    lab.apply(finetunejob("training", long_enough_to_disturb()))
    lab.wait_for_step("training", 1)
    names = [pod["metadata"]["name"] for pod in two_replicas]
    (at_work,) = [name for name in names if holder(lab.cluster).startswith(name)]
    lab.cluster.kubectl("delete", "pod", at_work, "-n", OPERATOR_NAMESPACE, "--grace-period=0", "--force")
    wait_for(
        lambda: holder(lab.cluster) and not holder(lab.cluster).startswith(at_work),
        2 * PROMISED,
        lambda: f"nobody has taken the Lease of {holder(lab.cluster)}",
    )
    status = lab.wait_for_phase("training", "Succeeded")
    assert (status["attempt"], status["restarts"]) == (1, 0)
