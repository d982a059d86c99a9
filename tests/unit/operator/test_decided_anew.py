"""Nothing is decided for good before the first attempt; everything is from then on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.jobs import merged
from harness.operator_view import PREPARED, condition, observed, pod
from phitune_operator import names
from phitune_operator.blocked import BlockedError
from phitune_operator.decide import subject_of
from phitune_operator.kinds import CONFIG_MAP, JOB, PYTORCHJOB, Kind, Object
from phitune_operator.nodes import Node
from phitune_operator.observed import Create, Delete, Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.usage import Usage
from phitune_trainer.config import parse_config
from phitune_trainer.memory import GPUS
from phitune_trainer.yaml_reader import read_document

GPU: Object = {
    "task": "docvqa",
    "model": None,
    "data": None,
    "method": "lora",
    "resources": {"nodes": 1, "gpusPerNode": 8, "cpu": None, "memory": None},
    "training": {"maxSteps": None, "globalBatchSize": None, "warmupSteps": None},
}
WAITING: Object = {"attempt": 0, "conditions": [PREPARED["conditions"][0]]}
IMAGES = {"flash": "trainer-flash:1", "v100": "trainer-v100:1"}


def node(gpu: str, *, used: int = 0, name: str = "", zone: str = "") -> Node:
    """A node of eight GPUs, of which pods hold so many."""
    major, minor = GPUS[gpu].compute_capability or (0, 0)
    labels = {
        names.LABEL_GPU_PRODUCT: gpu,
        "nvidia.com/gpu.compute.major": str(major),
        "nvidia.com/gpu.compute.minor": str(minor),
        **({names.LABEL_ZONE: zone} if zone else {}),
    }
    usage = Usage()
    usage.devices[names.GPU_RESOURCE] = used
    return Node(
        name=name or gpu.lower(), labels=labels, num_gpus=8, cpu=Decimal(96), memory=2**40, usage=usage
    )


def job(
    nodes: Sequence[Node], status: Object | None = None, spec: Object | None = None, **more: Any
) -> Observed:
    seen = observed(
        merged(GPU, spec or {}),
        copy.deepcopy(WAITING if status is None else status),
        nodes=tuple(nodes),
        **more,
    )
    return replace(seen, settings=replace(seen.settings, trainer_images=IMAGES))


def made(todo: Plan) -> dict[Kind, Object]:
    return {action.kind: action.body for action in todo.actions if isinstance(action, Create)}


CLUSTERS = st.lists(
    st.sampled_from(["H100", "A100-80GB", "V100-32GB", "T4"]), min_size=1, max_size=4, unique=True
).flatmap(
    lambda gpus: st.tuples(*(st.builds(node, st.just(gpu), used=st.sampled_from([0, 3, 8])) for gpu in gpus))
)


@settings(max_examples=30, deadline=None)
@given(st.lists(CLUSTERS, min_size=1, max_size=8))
def test_status_follows_the_cluster_until_the_first_attempt_and_never_after(
    history: list[tuple[Node, ...]],
) -> None:
    status, pinned, config = WAITING, None, None
    for cluster in history:
        seen = job(cluster, status, config_map=config)
        todo = plan(seen)
        placement = todo.status["placement"]
        if pinned is None:
            fresh = subject_of(job(cluster))[1]
            assert placement == fresh
            announced = [one for one in todo.announcements if one.reason == "Placed"]
            assert bool(announced) == (seen.status.get("placement") != fresh)
            has_room = any(one.usage is not None and not one.usage.devices.total() for one in cluster)
            assert (todo.status["attempt"] == 1) == has_room
        else:
            assert placement == pinned
        objects = made(todo)
        assert (PYTORCHJOB in objects) == (todo.status["attempt"] == 1 and (pinned is None or objects != {}))
        if CONFIG_MAP in objects:
            assert pinned is None, "what the pods of the first attempt read is never made anew"
            pinned, config = placement, objects[CONFIG_MAP]
            training = parse_config(read_document(config["data"][names.CONFIG_KEY]), "").training
            assert training.precision == placement["precision"]
            assert training.micro_batch_size == placement["microBatchSize"]
            assert placement["product"] in str(objects[PYTORCHJOB]["spec"])
        status = todo.status


def test_a_job_that_waits_takes_other_gpus_than_it_would_have_had() -> None:
    waits = plan(job([node("H100", used=8)]))
    assert waits.status["placement"]["product"] == "H100"
    assert condition(waits.status, "Running")["reason"] == "NoRoom"
    todo = plan(job([node("H100", used=8), node("V100-32GB")], waits.status))
    placement = todo.status["placement"]
    assert (placement["product"], placement["precision"], placement["image"]) == (
        "V100-32GB",
        "fp16",
        "trainer-v100:1",
    )
    assert [one.reason for one in todo.announcements if one.reason == "Placed"] == ["Placed"]


def test_status_is_not_written_because_somebody_elses_pods_came_or_went() -> None:
    first = plan(job([node("H100", used=8), node("H100", used=8, name="b")]))
    status = {**first.status, "conditions": WAITING["conditions"]}
    again = plan(job([node("H100", used=8), node("H100", used=3, name="b")], status))
    assert again.status["placement"] == first.status["placement"]


def test_reason_says_nothing_that_others_make_untrue_and_follows_edits() -> None:
    waits = plan(job([node("H100", used=8)]))
    reason = waits.status["placement"]["reason"]
    assert "image of build flash" in reason
    assert reason.endswith("; 32 CPUs and 512Gi of memory a pod")
    started = plan(job([node("H100"), node("H100", name="b")], waits.status))
    assert started.status["attempt"] == 1
    assert started.status["placement"]["reason"] == reason
    edited = {"image": "mine:1", "resources": {"cpu": "6", "memory": "99Gi"}}
    later = plan(job([node("H100")], restarting(started.status), edited)).status["placement"]
    assert later["reason"].endswith("before others; 6 CPUs and 99Gi of memory a pod"), "no build of ours"
    assert plan(job([node("H100")], restarting(started.status))).status["placement"]["reason"] == reason


@pytest.mark.parametrize(
    ("done", "phase", "reason"),
    [
        pytest.param({}, "Preparing", "Preparing", id="it goes on"),
        pytest.param({"type": "Complete", "status": "True"}, "Pending", "Prepared", id="it is done"),
        pytest.param({"type": "Failed", "status": "True"}, "Failed", "Creating", id="it has failed"),
    ],
)
def test_prepare_is_followed_also_while_there_are_no_gpus_for_the_job(
    done: Object, phase: str, reason: str
) -> None:
    mine = prepare_job(subject_of(job([node("H100")]))[0])
    mine["metadata"]["uid"] = "p"
    mine["status"] = {"conditions": [done] if done else []}
    fetching = replace(pod(0), attempt=None, log_tail=("prepare: 3 of 9 GB",))
    creating = {"type": "Prepared", "status": "False", "reason": "Creating", "lastTransitionTime": "x"}
    begun = {"phase": "Preparing", "conditions": [creating]}
    cordoned = replace(node("H100"), is_schedulable=False)
    todo = plan(job([cordoned], begun, prepare=mine, pods=(fetching,)))
    assert condition(todo.status, "Accepted")["reason"] == "NoSuchGPU"
    assert todo.status["phase"] == phase
    prepared = condition(todo.status, "Prepared")
    assert prepared["reason"] == reason
    assert phase != "Preparing" or prepared["message"] == "3 of 9 GB"


def test_nodes_that_are_gone_before_the_first_attempt_are_said_and_not_waited_for_in_silence() -> None:
    waits = plan(job([node("H100", used=8)]))
    cordoned = replace(node("H100"), is_schedulable=False)
    accepted = condition(plan(job([cordoned], waits.status)).status, "Accepted")
    assert (accepted["reason"], "cordoned" in accepted["message"]) == ("NoSuchGPU", True)


def test_prepare_pod_that_no_node_takes_is_made_where_the_job_would_go_now() -> None:
    at_first = job([node("H100")])
    stuck = replace(
        pod(0, phase="Pending"), attempt=None, is_ready=False, unschedulable="0/1 nodes are available"
    )
    mine = prepare_job(subject_of(at_first)[0]) | {"status": {}}
    mine["metadata"]["uid"] = "p"

    def deleted(nodes: Sequence[Node], pod_now: Any = stuck) -> list[Kind]:
        todo = plan(job(nodes, {}, prepare=mine, pods=(pod_now,)))
        return [action.kind for action in todo.actions if isinstance(action, Delete)]

    assert deleted([node("A100-80GB")]) == [JOB]
    assert deleted([node("H100"), node("A100-80GB")]) == []
    assert deleted([node("A100-80GB")], replace(stuck, unschedulable="")) == []


# The image.


def restarting(status: Object) -> Object:
    ended = {
        "type": "Restarting",
        "status": "True",
        "reason": "NodeLost",
        "lastTransitionTime": "2026-01-01T10:00:00Z",
    }
    return {**status, "attempt": 1, "conditions": [*WAITING["conditions"], ended]}


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param(["mine:1", None], id="given at first, then removed"),
        pytest.param([None, "mine:1", None], id="given, then removed"),
        pytest.param(["mine:1", "mine:2", None], id="changed, then removed"),
        pytest.param([None, "mine:1", "mine:2", None, "mine:3", None], id="to and fro"),
    ],
)
@pytest.mark.parametrize("gpu", ["H100", "V100-32GB"])
def test_default_image_comes_back_when_the_job_names_none_any_more(edits: list[str | None], gpu: str) -> None:
    default = {"H100": "trainer-flash:1", "V100-32GB": "trainer-v100:1"}[gpu]
    status: Object = WAITING
    for image in edits:
        todo = plan(job([node(gpu)], status, {"image": image}))
        ours = made(todo)[PYTORCHJOB]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
        assert ours["spec"]["containers"][0]["image"] == (image or default)
        assert todo.status["placement"]["image"] == (image or default)
        status = restarting(todo.status)


def test_upgrade_while_the_job_names_its_own_image_does_not_change_the_one_that_comes_back() -> None:
    first = plan(job([node("H100")], WAITING, {"image": "mine:1"}))
    later = job([node("H100")], restarting(first.status))
    later = replace(later, settings=replace(later.settings, trainer_images={"flash": "trainer-flash:2"}))
    assert plan(later).status["placement"]["image"] == "trainer-flash:1"


# The zone.


def test_zone_is_kept_when_the_prepare_job_is_made_again() -> None:
    cluster = [node("H100", name=name, zone=zone) for name, zone in (("1", "a"), ("2", "b"), ("3", "b"))]
    two = {"resources": {"nodes": 2}}
    first = plan(job(cluster, {}, two))
    expected = made(first)[JOB]["spec"]["template"]["spec"]["affinity"]
    assert "'values': ['b']" in str(expected)
    suspended_and_resumed = plan(job(cluster, first.status, two))
    assert made(suspended_and_resumed)[JOB]["spec"]["template"]["spec"]["affinity"] == expected
    doubted = {"type": "Prepared", "status": "False", "reason": "Doubted", "message": ""}
    after_attempt = {**restarting(first.status), "conditions": [doubted]}
    again = plan(job(cluster, after_attempt, two))
    assert made(again)[JOB]["spec"]["template"]["spec"]["affinity"] == expected


def test_job_goes_where_its_volume_was_made_and_not_to_better_gpus_elsewhere() -> None:
    made_for = {names.ANNOTATION_SELECTED_NODE: "a100"}
    claim = {
        "metadata": {
            "name": "digits-workspace",
            "labels": {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB: "digits"},
            "annotations": made_for,
        },
        "spec": {"accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound"},
    }
    cluster = [node("H100", name="h100", zone="a"), node("A100-80GB", name="a100", zone="b")]
    assert subject_of(job(cluster, claim=claim))[1]["product"] == "A100-80GB"
    assert subject_of(job(cluster))[1]["product"] == "H100"
    unbound = {**claim, "status": {"phase": "Pending"}}
    assert subject_of(job(cluster, claim=unbound))[1]["product"] == "H100"
    held = [cluster[0], replace(cluster[1], usage=node("A100-80GB", used=8).usage)]
    assert condition(plan(job(held, claim=claim)).status, "Running")["reason"] == "NoRoom"
    no_zones = [node("H100", name="h100"), node("A100-80GB", name="a100")]
    assert subject_of(job(no_zones, claim=claim))[1]["product"] == "H100"
    only_h100 = {"resources": {"gpuProducts": ["H100"]}}
    with pytest.raises(BlockedError, match="outside the zone of the job's volume do not count"):
        subject_of(job(cluster, spec=only_h100, claim=claim))


def test_gang_uses_nodes_of_several_zones_where_its_volume_is_a_share_on_the_network() -> None:
    """Filestore's classes wait for the first pod, and then all zones reach the volume."""
    claim = {
        "metadata": {
            "name": "digits-workspace",
            "labels": {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB: "digits"},
            "annotations": {names.ANNOTATION_SELECTED_NODE: "1"},
        },
        "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"phase": "Bound"},
    }
    cluster = [node("H100", name="1", zone="a"), node("H100", name="2", zone="b")]
    two = {"resources": {"nodes": 2}}
    for known in (WAITING, restarting(plan(job(cluster, spec=two)).status)):
        assert made(plan(job(cluster, known, two, claim=claim)))[PYTORCHJOB]
