"""Before any pod on CPU: are nodes large enough, is there room on them now, and would a pool make some."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.operator_view import AT_ELEVEN, condition, observed, pod, subject
from harness.seeking import GIB, gangs_made, interrupted, prepared, refusal, with_pool
from phitune_operator.kinds import PYTORCHJOB, Object
from phitune_operator.nodes import Node, Taint, read_nodes
from phitune_operator.observed import Create, Delete, Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.render.config_map import config_map
from phitune_operator.usage import Usage, usage_of


def hosts_of(*sizes: tuple[str, str]) -> tuple[Node, ...]:
    """Nodes without GPUs, with so many CPUs and so much memory."""
    found = (
        {
            "metadata": {"name": f"host-{index}"},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for index, (cpu, memory) in enumerate(sizes)
    )
    return read_nodes(found, None)


def seen_on_cpu(cluster: Sequence[Node] | None, **resources: Any) -> Observed:
    asked = {"nodes": 2, "gpusPerNode": 0, "cpu": "4", "memory": "8Gi", **resources}
    return observed({"resources": asked}, nodes=None if cluster is None else tuple(cluster))


def on_cpu(cluster: Sequence[Node] | None, **resources: Any) -> Plan:
    return plan(seen_on_cpu(cluster, **resources))


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(None, id="not known"),
        pytest.param((("4", "8Gi"), ("4", "8Gi")), id="a node each"),
        pytest.param((("8", "64Gi"),), id="both on one"),
        pytest.param((("9", "12Gi"), ("5", "9Gi"), ("2", "999Gi")), id="of several sizes"),
    ],
)
def test_job_on_cpu_goes_on_where_its_pods_could_run(cluster: tuple[tuple[str, str], ...] | None) -> None:
    todo = on_cpu(None if cluster is None else hosts_of(*cluster))
    assert condition(todo.status, "Accepted")["status"] == "True"


@pytest.mark.parametrize(
    ("cluster", "remedy"),
    [
        ((("2", "64Gi"), ("2", "64Gi")), "spec.resources.cpu: 1800m would fit"),
        ((("8", "4Gi"), ("8", "4Gi")), "spec.resources.memory: 3686Mi would fit"),
        (
            (("3", "6Gi"), ("3", "6Gi")),
            "spec.resources.cpu: 2700m and spec.resources.memory: 5529Mi would fit",
        ),
        ((("4", "8Gi"),), "more or larger nodes are needed, or fewer pods"),
    ],
)
def test_job_on_cpu_whose_pods_no_nodes_can_hold_is_refused_with_what_would_fit(
    cluster: tuple[tuple[str, str], ...], remedy: str
) -> None:
    said = refusal(on_cpu(hosts_of(*cluster)), "NodeTooSmall")
    assert "of 2 pod(s) of 4 CPUs and 8.0 GiB" in said
    assert said.endswith(remedy)
    changes = dict(re.findall(r"spec\.resources\.(cpu|memory): (\w+)", said))
    if changes:
        mended = on_cpu(hosts_of(*cluster), **changes)
        assert condition(mended.status, "Accepted")["status"] == "True"


def test_nodes_that_a_job_on_cpu_may_not_use_do_not_count() -> None:
    large, small = hosts_of(("64", "1Ti"), ("2", "4Gi"))
    tainted = replace(large, taints=(Taint(key="gpu", value="", effect="NoSchedule"),))
    assert "the 1 node(s)" in refusal(on_cpu([tainted, small]), "NodeTooSmall")
    lets = on_cpu([tainted, small], tolerations=[{"key": "gpu", "operator": "Exists"}])
    assert condition(lets.status, "Accepted")["status"] == "True"


def test_pool_without_gpus_counts_for_jobs_on_cpu_alone() -> None:
    hosts_pool = {"product": "", "gpus_per_node": 0}
    small = seen_on_cpu(hosts_of(("2", "4Gi")))
    assert condition(plan(with_pool(small, **hosts_pool)).status, "Accepted")["status"] == "True"
    asked = {"gpusPerNode": 1, "cpu": None, "memory": None}
    with_gpus = observed({"resources": asked, "training": {"globalBatchSize": 16}}, nodes=())
    refusal(plan(with_pool(with_gpus, **hosts_pool)), "NoSuchGPU")


def waiting_on_cpu(cluster: Sequence[Node], **resources: Any) -> Observed:
    """A job on CPU that has all it needs but nodes: two pods of 4 CPUs and 8 GiB."""
    return prepared(seen_on_cpu(cluster, **resources))


def test_a_gang_that_its_own_anti_affinity_keeps_apart_is_taken_back_in_the_words_of_the_scheduler() -> None:
    beside = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}}
    asked = {"resources": {"nodes": 2, "gpusPerNode": 0}, "podTemplate": {"affinity": apart}}
    seen = prepared(observed(asked, nodes=hosts_of(("64", "1Ti"))), config_map=config_map(subject()))
    begun = plan(seen)
    (gang,) = (act.body for act in begun.actions if isinstance(act, Create) and act.kind == PYTORCHJOB)
    gang["metadata"]["uid"] = "gang-1"
    words = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
    kept_off = {"type": "PodScheduled", "status": "False", "message": words, "lastTransitionTime": AT_ELEVEN}
    found = {"type": "PodScheduled", "status": "True", "lastTransitionTime": AT_ELEVEN}
    pods = (pod(0, conditions=[found]), replace(pod(1, phase="Pending", conditions=[kept_off]), node=""))
    raw = {**seen.raw, "status": begun.status}
    taken_back = plan(replace(seen, raw=raw, gangs=(gang,), pods=pods, waited=timedelta(minutes=1)))
    assert [action.kind for action in taken_back.actions if isinstance(action, Delete)] == [PYTORCHJOB]
    (event,) = (event for event in taken_back.announcements if event.reason == "HalfPlaced")
    assert f"only 1 of 2 pods found a node within 1m00s, and kept it from others; {words}" in event.message


def test_no_pod_on_cpu_is_made_while_others_hold_what_the_gang_needs() -> None:
    first, second = hosts_of(("4", "8Gi"), ("8", "16Gi"))
    seen = waiting_on_cpu((first, second))
    assert gangs_made(plan(seen)) == 1
    busy = replace(second, usage=Usage(cpu=Decimal(5)))
    todo = plan(replace(seen, nodes=(first, busy)))
    running = condition(todo.status, "Running")
    assert (gangs_made(todo), todo.status["phase"], running["reason"]) == (0, "Pending", "NoRoom")
    assert "nodes have room for 1 of 2 pods of 4 CPUs and 8.0 GiB now" in running["message"]
    assert condition(todo.status, "Accepted")["status"] == "True"
    full = replace(first, usage=Usage(memory=GIB))
    assert gangs_made(plan(replace(seen, nodes=(full, second)))) == 1, "both fit on the second"


@pytest.mark.parametrize(
    "away",
    [
        {"is_schedulable": False},
        {"is_ready": False},
        {"taints": (Taint(key="node-role.kubernetes.io/control-plane", value="", effect="NoSchedule"),)},
    ],
    ids=["cordoned", "not ready", "of the control plane"],
)
def test_free_room_where_no_pod_may_start_is_none(away: dict[str, Any]) -> None:
    open_to_all, closed = hosts_of(("4", "8Gi"), ("64", "1Ti"))
    seen = waiting_on_cpu((open_to_all, closed))
    assert gangs_made(plan(replace(seen, nodes=(open_to_all, replace(closed, **away))))) == 0


def test_job_on_cpu_that_may_not_use_any_node_is_told_why() -> None:
    cluster = hosts_of(("64", "1Ti"), ("64", "1Ti"))
    said = refusal(on_cpu(cluster, nodeSelector={"pool": "none"}), "NodeTooSmall")
    assert "can start on any of the 2 node(s), of which nodeSelector and affinity select 0" in said
    cordoned = [replace(node, is_schedulable=False) for node in cluster]
    assert "not counted: host-0 (cordoned), host-1 (cordoned)" in refusal(on_cpu(cordoned), "NodeTooSmall")


def test_what_daemons_ask_for_is_held_and_what_has_ended_is_not() -> None:
    def pod_of(cpu: str, **status: Any) -> Object:
        requests = {"cpu": cpu, "memory": "1Gi"}
        return {
            "metadata": {},
            "spec": {"nodeName": "host-0", "containers": [{"resources": {"requests": requests}}]},
            "status": {"phase": "Running", **status},
        }

    (host,) = hosts_of(("9", "64Gi"))
    daemon, ended = pod_of("900m"), [pod_of("8", phase=phase) for phase in ("Succeeded", "Failed")]
    for pods, room in (([daemon, *ended], 2), ([daemon, pod_of("200m")], 1), ([pod_of("20")], 0)):
        held = replace(host, usage=usage_of(pods)["host-0"])
        assert held.num_free(cpu=Decimal(4), memory=8 * GIB) == room


ROOMS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(free=ROOMS, held=ROOMS, cpu=st.integers(1, 4), memory=st.integers(1, 4), pods=st.integers(2, 5))
def test_gang_on_cpu_is_made_just_where_a_scheduler_finds_a_node_for_every_pod(
    free: list[tuple[int, int]], held: list[tuple[int, int]], cpu: int, memory: int, pods: int
) -> None:
    taken = [*held, *[(0, 0)] * len(free)]
    cluster = tuple(
        replace(host, usage=Usage(cpu=Decimal(by_others[0]), memory=by_others[1] * GIB))
        for host, by_others in zip(
            hosts_of(*((str(a + b), f"{c + d}Gi") for (a, c), (b, d) in zip(free, taken, strict=False))),
            taken,
            strict=False,
        )
    )
    batch = {"training": {"globalBatchSize": None}}
    resources = {"nodes": pods, "gpusPerNode": 0, "cpu": str(cpu), "memory": f"{memory}Gi"}
    roomy = hosts_of(("999", "999Gi"))
    seen = prepared(observed({"resources": resources, **batch}, nodes=roomy))
    left, placed = [list(room) for room in free], 0
    for room in left:
        while room[0] >= cpu and room[1] >= memory:
            room[:] = [room[0] - cpu, room[1] - memory]
            placed += 1
    # The first gang is begun already, so that no other reason than room can keep the next one away.
    status = {**seen.status, **interrupted(seen.status)}
    todo = plan(replace(seen, raw={**seen.raw, "status": status}, nodes=cluster))
    assert gangs_made(todo) == (placed >= pods)


def test_pod_on_cpu_that_is_alone_is_left_to_the_scheduler() -> None:
    full = tuple(replace(host, usage=Usage(cpu=Decimal(16))) for host in hosts_of(("16", "64Gi")))
    assert gangs_made(plan(waiting_on_cpu(full, nodes=1))) == 1
    assert gangs_made(plan(waiting_on_cpu(full, nodes=2))) == 0


def test_node_takes_no_more_pods_than_it_says() -> None:
    (host,) = hosts_of(("64", "256Gi"))
    few = replace(host, pods=3, usage=Usage(pods=1))
    assert few.num_free(cpu=Decimal(1), memory=GIB) == 2


HOSTS = {"name": "hosts", "product": "", "gpus_per_node": 0, "cpu": "8", "memory": "16Gi", "max_nodes": 2}


def test_gang_on_cpu_is_made_for_a_pool_that_grows_and_may_use_other_nodes_as_well() -> None:
    held = tuple(replace(host, usage=Usage(cpu=Decimal(16))) for host in hosts_of(("16", "64Gi")))
    seen = with_pool(waiting_on_cpu(held, nodes=4), **HOSTS)
    todo = plan(seen)
    assert gangs_made(todo) == 1, "two pods on each of two nodes to come"
    assert todo.status["placement"]["pool"] == "hosts"
    assert "nodeLabels" not in todo.status["placement"]
    assert "gke-nodepool" not in str([one.body for one in todo.actions if isinstance(one, Create)])
    for change in ({"max_nodes": 1}, {"memory": "12Gi"}, {"product": "H100", "gpus_per_node": 8}):
        waits = plan(with_pool(seen, **{**HOSTS, **change}))
        assert (gangs_made(waits), condition(waits.status, "Running")["reason"]) == (0, "NoRoom"), change


def test_pool_that_a_first_gang_on_cpu_grew_for_lets_no_later_one_start_without_room() -> None:
    held = tuple(replace(host, usage=Usage(cpu=Decimal(16))) for host in hosts_of(("16", "64Gi")))
    seen = with_pool(waiting_on_cpu(held, nodes=4), **HOSTS)
    begun = plan(seen).status
    status = {**seen.status, **begun, **interrupted({**seen.status, **begun})}
    again = replace(seen, raw={**seen.raw, "status": status})
    assert gangs_made(plan(again)) == 1, "the pool may still grow"
    waits = plan(with_pool(again, **{**HOSTS, "max_nodes": 1}))
    assert (gangs_made(waits), "pool" in waits.status["placement"]) == (0, False)
