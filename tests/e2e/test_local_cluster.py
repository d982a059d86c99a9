"""hack/cluster at work: two clusters side by side, a node that is cut off and heals, and no traces."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from harness.cluster import Cluster, run, wait_for
from harness.machine import traces, wait_until_gone
from harness.provision import hack_cluster, local_cluster

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def first(cluster: Cluster) -> Cluster:
    """The cluster of all tests."""
    if cluster.state is None:
        pytest.skip("is about the local cluster, and KUBECONFIG names another")
    return cluster


@pytest.fixture
def before(first: Cluster) -> set[str]:
    """What is on this machine while only the first cluster is."""
    return traces()


@pytest.fixture
def second(first: Cluster, before: set[str]) -> Iterator[Cluster]:
    """Another one beside it, whose pods may leave: that takes routes and rules of this machine."""
    assert first.state is not None
    with local_cluster(first.state.with_name(f"{first.state.name}-second"), "--egress") as cluster:
        yield cluster


def status(cluster: Cluster) -> dict[str, object]:
    """What `status` says, healthy or not."""
    done = subprocess.run(_on(cluster, "status", "-o", "json"), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


def _on(cluster: Cluster, command: str, *args: str) -> list[str]:
    return hack_cluster(command, "--state", str(cluster.state), *args)


def readiness(cluster: Cluster) -> dict[str, str]:
    """The condition Ready of every node: True, False or Unknown."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return {
        node["metadata"]["name"]: condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    }


BOTH_READY = {"node-1": "True", "node-2": "True"}


def wait_until_ready(cluster: Cluster, wanted: dict[str, str]) -> None:
    wait_for(lambda: readiness(cluster) == wanted, 60, lambda: f"{readiness(cluster)}, wanted {wanted}")


def test_a_node_is_cut_off_and_heals_and_the_other_cluster_does_not_notice(
    first: Cluster, second: Cluster, before: set[str]
) -> None:
    assert readiness(first) == readiness(second) == BOTH_READY
    second.kubectl("create", "namespace", "of-the-second")
    assert first.get("namespace", "of-the-second") is None

    run(_on(second, "cut", "node-2"))
    assert status(second)["healthy"] is False
    wait_until_ready(second, {"node-1": "True", "node-2": "Unknown"})
    assert readiness(first) == BOTH_READY
    assert status(first)["healthy"] is True
    run(_on(second, "heal", "node-2"))
    wait_until_ready(second, BOTH_READY)
    wait_for(lambda: status(second)["healthy"], 60, lambda: json.dumps(status(second), indent=2))

    added = {trace.split()[0] for trace in traces() - before}
    kinds = {"link", "route", "rule", "mount", "control", "folder", "namespace"}
    assert kinds <= added, "what is not seen cannot be missed"
    run(_on(second, "down"), timeout=300)
    wait_until_gone(before)
    assert readiness(first) == BOTH_READY
    run(_on(second, "down"))


def test_a_cluster_whose_processes_were_all_killed_is_still_taken_away_whole(
    first: Cluster, second: Cluster, before: set[str]
) -> None:
    for node in BOTH_READY:
        run(_on(second, "node", node, "kill"))
    assert status(second)["healthy"] is False
    run(_on(second, "down"), timeout=300)
    wait_until_gone(before)
