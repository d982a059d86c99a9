"""Gangs of the cluster's own scheduler: what they are made of, who waits for room, what is said meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.operator_view import AT_ELEVEN, H100, NOON, PREPARED, condition, observed, pod, subject
from phitune_operator import names
from phitune_operator.installed import Installed
from phitune_operator.kinds import (
    GANGS,
    JOBSET,
    OPTIONAL,
    POD_GROUP,
    PYTORCHJOB,
    Kind,
    Object,
    kind_of,
    labels_of,
    name_of,
)
from phitune_operator.kube import Kube
from phitune_operator.main import parse_arguments
from phitune_operator.observed import Create, Delete, Observed, Plan
from phitune_operator.placement import Node
from phitune_operator.plan import plan
from phitune_operator.pods import PodView
from phitune_operator.render.config_map import config_map
from phitune_operator.render.gang import with_needs
from phitune_operator.render.volume import claim
from phitune_operator.usage import Usage

TWO_NODES = {"resources": {"nodes": 2, "gpusPerNode": 1}}
TAKEN = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def templates(made: Object) -> Iterator[tuple[int, Object]]:
    """How many pods an object makes of a template, and the template."""
    spec = made["spec"]
    if "pytorchReplicaSpecs" in spec:
        for replica in spec["pytorchReplicaSpecs"].values():
            yield replica["replicas"], replica["template"]
    elif "replicatedJobs" in spec:
        for job in spec["replicatedJobs"]:
            of_pods = job["template"]["spec"]
            yield job["replicas"] * of_pods["parallelism"], of_pods["template"]
    elif "template" in spec:
        yield from templates(spec["template"])


def scheduled_whole(seen: Observed) -> Observed:
    """The same job, seen by an operator that leaves gangs to the scheduler."""
    return replace(seen, settings=replace(seen.settings, gang_scheduling=True))


def gpu_job(spec: dict[str, Any] | None = None, *, free: bool = True) -> Observed:
    """A prepared job for a GPU on each of two nodes, which others hold or not, and that has no gang yet."""
    used = Usage()
    used.devices[names.GPU_RESOURCE] = 0 if free else 8
    cluster: tuple[Node, ...] = tuple(replace(node, usage=used) for node in H100)
    status = {"conditions": PREPARED["conditions"][:1]}
    return observed({**TWO_NODES, **(spec or {})}, status, nodes=cluster)


def made(todo: Plan) -> list[Object]:
    return [action.body for action in todo.actions if isinstance(action, Create)]


def of_attempt(todo: Plan) -> list[str]:
    """Kinds of what is made for an attempt, in that order."""
    return [body["kind"] for body in made(todo) if names.LABEL_ATTEMPT in labels_of(body)]


@settings(max_examples=30, deadline=None)
@given(nodes=st.integers(1, 16), attempt=st.integers(1, 999_999), backend=st.sampled_from(GANGS))
def test_the_group_waits_for_just_the_pods_that_name_it(nodes: int, attempt: int, backend: Kind) -> None:
    spec = {"resources": {"nodes": nodes}, "training": {"globalBatchSize": nodes}}
    job = replace(subject(spec), backend=backend.kind, has_pod_group=True)
    group, *others = with_needs(job, attempt)
    assert kind_of(group) == POD_GROUP
    assert group["spec"] == {"schedulingPolicy": {"gang": {"minCount": nodes}}}
    pods = [(count, template) for one in others for count, template in templates(one)]
    assert sum(count for count, _ in pods) == nodes
    for _, template in pods:
        assert labels_of(template)[names.LABEL_POD_GROUP] == name_of(group)
        assert labels_of(template)[names.LABEL_MANAGED_BY] == names.MANAGER, "by which the policy knows them"


def test_name_of_the_group_of_the_longest_job_is_a_label() -> None:
    assert len(names.gang("j" * names.MAX_JOB_NAME, 999_999)) <= 63


@pytest.mark.parametrize("backend", GANGS, ids=str)
def test_a_gang_is_the_same_but_for_the_name_of_its_group(backend: Kind) -> None:
    alone = with_needs(replace(subject(), backend=backend.kind), 1)
    _, *grouped = with_needs(replace(subject(), backend=backend.kind, has_pod_group=True), 1)
    assert names.LABEL_POD_GROUP not in str(alone)
    assert without_label(grouped) == alone


def without_label(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_label(one) for key, one in value.items() if key != names.LABEL_POD_GROUP}
    return [without_label(one) for one in value] if isinstance(value, list) else value


def test_a_gang_is_made_though_others_hold_its_nodes_and_its_time_does_not_run_yet() -> None:
    taken = gpu_job(free=False)
    assert condition(plan(taken).status, "Running")["reason"] == "NoRoom"
    todo = plan(scheduled_whole(taken))
    assert of_attempt(todo) == ["PodGroup", "PyTorchJob"]
    assert todo.status["attempt"] == 1
    assert "startTime" not in todo.status


def waiting(*pods: PodView, spec: dict[str, Any] | None = None) -> Observed:
    """A gang of which these pods are there."""
    seen = scheduled_whole(observed({**TWO_NODES, **(spec or {})}, PREPARED, nodes=H100))
    group, gang = with_needs(replace(subject(TWO_NODES), has_pod_group=True), 1)
    gang["metadata"] |= {"uid": "gang-1", "creationTimestamp": AT_ELEVEN}
    there: dict[str, Any] = {"config_map": config_map(subject(TWO_NODES)), "claim": claim(subject(TWO_NODES))}
    return replace(seen, gangs=(gang,), needs=(group,), pods=pods, **there)


def pending(index: int, *, since: timedelta = timedelta(hours=1)) -> PodView:
    """A pod that no node takes."""
    one = pod(index, phase="Pending")
    return replace(one, node="", is_ready=False, unschedulable=TAKEN, unschedulable_since=NOON - since)


def test_a_gang_without_any_node_waits_as_long_as_it_takes_and_says_the_schedulers_reason() -> None:
    fits = replace(pending(0), unschedulable="pod group is unschedulable, waiting for minCount pods")
    todo = plan(replace(waiting(fits, pending(1)), waited=None))
    assert todo.actions == ()
    running = condition(todo.status, "Running")
    assert (running["status"], running["reason"]) == ("False", "Unschedulable")
    assert running["message"] == f"0 of 2 pod(s) run; {TAKEN}"
    assert "startTime" not in todo.status, "activeDeadline begins when it has its nodes"


def test_time_of_a_gang_runs_once_it_has_its_nodes() -> None:
    todo = plan(waiting(pod(0), pod(1)))
    assert todo.status["startTime"] == "2026-01-01T12:00:00Z"


def test_a_job_with_a_scheduler_of_its_own_is_left_to_that_one() -> None:
    todo = plan(scheduled_whole(gpu_job({"podTemplate": {"schedulerName": "volcano"}}, free=False)))
    assert of_attempt(todo) == ["PyTorchJob"]


def test_a_gang_that_waits_in_a_queue_has_its_group_too() -> None:
    """Quota is Kueue's; whether nodes have room for the whole of it is the scheduler's."""
    todo = plan(scheduled_whole(replace(gpu_job({"queueName": "team"}), queues=("team",))))
    group, gang = made(todo)[-2:]
    assert (group["kind"], gang["spec"]["runPolicy"]["suspend"]) == ("PodGroup", True)


@pytest.mark.parametrize("was_on", [True, False], ids=["turned off", "turned on"])
def test_a_gang_that_runs_stays_what_it_was_and_the_next_one_is_as_the_operator_is_told(was_on: bool) -> None:
    seen = waiting(pod(0), pod(1))
    before = with_needs(replace(subject(TWO_NODES), has_pod_group=was_on), 1)
    gang = {**before[-1], "metadata": {**before[-1]["metadata"], "uid": "gang-1"}}
    told = replace(seen.settings, gang_scheduling=not was_on)
    seen = replace(seen, settings=told, gangs=(gang,), needs=tuple(before[:-1]))
    assert plan(seen).actions == ()

    over = {"type": "Restarting", "status": "True", "reason": "NodeLost", "lastTransitionTime": AT_ELEVEN}
    status = {**PREPARED, "conditions": [*PREPARED["conditions"], over]}
    ended = replace(seen, raw={**seen.raw, "status": status}, pods=())
    cleared = {action.name for action in plan(ended).actions if isinstance(action, Delete)}
    assert cleared == {"digits-1"}
    after = plan(replace(ended, gangs=(), needs=()))
    assert of_attempt(after) == (["PyTorchJob"] if was_on else ["PodGroup", "PyTorchJob"])


def test_groups_of_a_suspended_job_go_with_its_gang() -> None:
    seen = waiting(pod(0), pod(1), spec={"runPolicy": {"suspend": True}})
    gone = {(action.kind, action.name) for action in plan(seen).actions if isinstance(action, Delete)}
    assert gone == {(PYTORCHJOB, "digits-1"), (POD_GROUP, "digits-1")}


@pytest.mark.parametrize(
    ("there", "wish", "is_on"),
    [
        pytest.param(OPTIONAL, True, True, id="wished for, and there"),
        pytest.param(OPTIONAL, False, False, id="there, and not wished for"),
        pytest.param((PYTORCHJOB, JOBSET), True, False, id="wished for, and not there"),
    ],
)
def test_groups_are_watched_where_the_cluster_has_them_and_the_operator_may(
    there: tuple[Kind, ...], wish: bool, is_on: bool
) -> None:
    class Discovery:
        async def serves(self, kind: Kind) -> bool:
            return kind in there

    installed = Installed(cast(Kube, Discovery()), gang_scheduling=wish)
    asyncio.run(installed.find())
    assert installed.gang_scheduling is is_on
    assert (POD_GROUP in installed.watched) is is_on


@pytest.mark.parametrize(("told", "wish"), [("true", True), ("", False), (None, False)])
def test_the_operator_is_told_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, told: str | None, wish: bool
) -> None:
    monkeypatch.delenv("PHITUNE_GANG_SCHEDULING", raising=False)
    if told is not None:
        monkeypatch.setenv("PHITUNE_GANG_SCHEDULING", told)
    assert parse_arguments(["--trainer-image", "i"]).gang_scheduling is wish
    assert parse_arguments(["--trainer-image", "i", "--gang-scheduling"]).gang_scheduling is True
