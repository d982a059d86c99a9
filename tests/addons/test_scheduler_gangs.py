"""Gangs that the cluster's own scheduler places: all pods of one have a node, or none has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from harness.addons import add, local_queue, told_backend
from harness.cluster import OPERATOR_NAMESPACE, Cluster, Object, run
from harness.installed import Installed, install, uninstall
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.lab import Lab, occupant
from harness.provision import hack_cluster, provided_cluster
from harness.rights import Right, asked_for, granted
from phitune_operator import names
from phitune_operator.fields import quantity

pytestmark = pytest.mark.timeout(900)
ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:phitune"
GROUP = "scheduling.k8s.io"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of its own whose scheduler knows gangs, with JobSet."""
    with provided_cluster("--gang-scheduling") as cluster:
        add(cluster, "jobset")
        if "podgroups" not in cluster.kubectl("api-resources", f"--api-group={GROUP}", "-o", "name"):
            pytest.skip("the scheduler of this cluster knows no gangs")
        yield cluster


@pytest.fixture(scope="module")
def phitune(cluster: Cluster) -> Iterator[Installed]:
    """The chart, which finds by itself what the cluster has."""
    installed = install(cluster)
    yield installed
    uninstall(cluster)


@pytest.fixture(params=["pytorchjob", "jobset"])
def backend(phitune: Installed, request: pytest.FixtureRequest) -> Iterator[str]:
    """The operator told to run new gangs so."""
    with told_backend(phitune.cluster, request.param):
        yield request.param


def most_of_a_node(lab: Lab) -> str:
    """CPUs of which a node has enough for one pod, and not for two."""
    sizes = [
        quantity(node["status"]["allocatable"]["cpu"]) for node in lab.cluster.list("nodes", lab.namespace)
    ]
    assert len(set(sizes)) == 1, "gangs of two need two nodes alike"
    assert len(sizes) == 2
    return f"{int(sizes[0] * 600)}m"


def gang(lab: Lab, name: str) -> list[Object]:
    return lab.pods(name, role="trainer")


def nodes_of(pods: Sequence[Object]) -> list[str]:
    """Nodes of those pods that have one."""
    return sorted(pod["spec"]["nodeName"] for pod in pods if "nodeName" in pod["spec"])


def groups(lab: Lab, name: str) -> list[str]:
    found = lab.cluster.list("podgroups", lab.namespace, f"{names.LABEL_JOB}={name}")
    return [one["metadata"]["name"] for one in found]


def moments(pods: Sequence[Object], condition: str) -> list[str]:
    """When each pod's condition became what it is."""
    return [
        one["lastTransitionTime"]
        for pod in pods
        for one in pod["status"]["conditions"]
        if one["type"] == condition
    ]


def ends(pods: Sequence[Object]) -> list[str]:
    (statuses,) = zip(*(pod["status"]["containerStatuses"] for pod in pods), strict=True)
    return [status["state"]["terminated"]["finishedAt"] for status in statuses]


def test_of_two_jobs_that_each_need_the_whole_cluster_one_waits_without_a_node_and_then_runs(
    lab: Lab, backend: str
) -> None:
    few = {"training": {"maxSteps": 20}, "resources": {"cpu": most_of_a_node(lab)}}
    pair = {"one", "other"}
    lab.apply(*(finetunejob(name, long_enough_to_disturb(few)) for name in sorted(pair)))

    def placed() -> str | None:
        return next((name for name in sorted(pair) if len(nodes_of(gang(lab, name))) == 2), None)

    def reason() -> str | None:
        message = lab.condition(second, "Running").get("message", "")
        return message if "Insufficient cpu" in message else None

    first = lab.wait("gang with both nodes", placed)
    (second,) = pair - {first}
    assert "0/2 nodes are available" in lab.wait("the scheduler's reason", reason)
    assert len(gang(lab, second)) == 2, "its pods are there"
    assert nodes_of(gang(lab, second)) == []
    assert "startTime" not in lab.status(second)
    for name in pair:
        assert groups(lab, name) == [f"{name}-1"]
        told = [pod["spec"].get("schedulingGroup") for pod in gang(lab, name)]
        assert told == [{"podGroupName": f"{name}-1"}] * 2
        (prepare,) = lab.pods(name, role="prepare")
        assert "schedulingGroup" not in prepare["spec"]

    for name in (first, second):
        status = lab.wait_for_phase(name, "Succeeded", timeout=300)
        assert (status["attempt"], status["restarts"]) == (1, 0)
        assert status["placement"]["backend"].lower() == backend
    assert min(moments(gang(lab, second), "PodScheduled")) >= max(ends(gang(lab, first)))


def test_gang_on_gpus_is_made_though_there_is_no_room_and_gets_all_of_its_nodes_at_once(lab: Lab) -> None:
    if not lab.cluster.is_local:
        pytest.skip("pretends GPUs, which takes a local cluster")
    here, there = (node["metadata"]["name"] for node in lab.cluster.list("nodes", lab.namespace))
    where = ("--state", str(lab.cluster.state))
    for node in (here, there):
        run(hack_cluster("gpu", *where, node, "H200:2"))
    try:
        lab.apply(occupant("occupant", lab.trainer_image, here, limits={names.GPU_RESOURCE: "2"}))
        lab.apply(finetunejob("split", {"resources": {"gpusPerNode": 1}}))

        def waits() -> bool:
            return lab.condition("split", "Running").get("reason") == "Unschedulable"

        lab.wait("pods that no node takes", waits)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            assert nodes_of(gang(lab, "split")) == [], "one of its pods would fit"
            time.sleep(0.5)
        lab.cluster.kubectl("delete", "pod", "occupant", "-n", lab.namespace, "--grace-period", "1")
        lab.wait("nodes", lambda: nodes_of(gang(lab, "split")) == [here, there])
        assert lab.status("split")["attempt"] == 1
    finally:
        for node in (here, there):
            run(hack_cluster("gpu", *where, node, "none"))


def test_gang_that_kueue_admits_is_placed_whole(lab: Lab) -> None:
    """There is quota for it, and a node for one of its pods."""
    add(lab.cluster, "kueue")
    share = most_of_a_node(lab)
    here, _ = (node["metadata"]["name"] for node in lab.cluster.list("nodes", lab.namespace))
    with local_queue(lab.cluster, lab.namespace, cpu="16", memory="64Gi"):
        lab.apply(occupant("occupant", lab.trainer_image, here, requests={"cpu": share}))
        lab.apply(finetunejob("queued", {"queueName": "team", "resources": {"cpu": share}}))

        def waits() -> bool:
            return lab.condition("queued", "Running").get("reason") == "Unschedulable"

        lab.wait("pods that no node takes", waits)
        assert nodes_of(gang(lab, "queued")) == []
        lab.cluster.kubectl("delete", "pod", "occupant", "-n", lab.namespace, "--grace-period", "1")
        status = lab.wait_for_phase("queued", "Succeeded")
        assert (status["attempt"], groups(lab, "queued")) == (1, ["queued-1"])


def test_group_of_an_attempt_goes_with_its_gang_and_the_next_one_has_its_own(lab: Lab) -> None:
    lab.apply(finetunejob("paused", long_enough_to_disturb({"training": {"maxSteps": 20}})))
    lab.wait_for_checkpoint("paused")
    lab.suspend("paused", True)
    lab.wait("end of the group", lambda: not groups(lab, "paused"))
    lab.suspend("paused", False)
    status = lab.wait_for_phase("paused", "Succeeded", timeout=300)
    assert (status["attempt"], groups(lab, "paused")) == (2, ["paused-2"])
    lab.delete("paused")
    lab.wait("end of all groups", lambda: not groups(lab, "paused"))


def test_group_that_somebody_else_has_made_is_left_alone(lab: Lab) -> None:
    spec = {"schedulingPolicy": {"basic": {}}}
    theirs = {"apiVersion": f"{GROUP}/v1alpha2", "kind": "PodGroup", "metadata": {"name": "taken-1"}}
    lab.apply({**theirs, "spec": spec})
    lab.apply(finetunejob("taken"))
    accepted = lab.wait_for_condition("taken", "Accepted", "False")
    assert accepted["reason"] == "NameCollision"
    assert accepted["message"].startswith("PodGroup taken-1 exists")
    assert not gang(lab, "taken")


def test_rights_on_groups_are_those_that_were_used(phitune: Installed) -> None:
    """The tests before this one have used them all."""
    if phitune.cluster.state is None:
        pytest.skip("reads the audit log of the local cluster")
    asked = asked_for(phitune.cluster.state / "logs" / "audit.log", ACCOUNT)
    role = phitune.cluster.get("clusterrole", f"{OPERATOR_NAMESPACE}-phitune")
    assert role is not None
    rights = granted([role])
    verbs = ("get", "list", "watch", "create", "delete")
    assert {right for right in rights if right.group == GROUP} == {
        Right(GROUP, "podgroups", verb) for verb in verbs
    }
    assert {right for right in rights if right.group == GROUP} == {
        right for right in asked if right.group == GROUP
    }
