"""Before any pod: are the nodes large enough, are enough of them free, and would a pool make them so."""

from __future__ import annotations

import asyncio
import re
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from harness.operator_view import condition, observed
from harness.seeking import GIB, POOL, gangs_made, interrupted, prepared, refusal, with_pool
from phitune_operator.capacity import Capacity, Reading
from phitune_operator.cluster_settings import NetworkProfile
from phitune_operator.decide import subject_of
from phitune_operator.kinds import NODE, POD, Kind, Object
from phitune_operator.kube import ApiError
from phitune_operator.nodes import Node
from phitune_operator.observed import Create, Observed
from phitune_operator.plan import plan
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.usage import Usage, usage_of
from phitune_trainer.memory import GPUS

PAGES: dict[str, Any] = {
    "task": "docvqa",
    "model": None,
    "data": None,
    "method": "lora",
    "training": {"maxSteps": None, "globalBatchSize": None, "warmupSteps": None},
}


def nodes(
    gpu: str, count: int, *, gpus: int = 8, cpu: int = 96, gib: int = 1000, used: int | None = 0
) -> tuple[Node, ...]:
    """Nodes with GPUs of a product, of which pods hold so many of each."""
    known = GPUS[gpu]
    assert known.compute_capability is not None
    labels = {
        "nvidia.com/gpu.product": gpu,
        "nvidia.com/gpu.compute.major": str(known.compute_capability[0]),
        "nvidia.com/gpu.compute.minor": str(known.compute_capability[1]),
    }
    usage = Usage()
    usage.devices["nvidia.com/gpu"] = used or 0
    return tuple(
        Node(
            name=f"{gpu}-{index}".lower(),
            labels=labels,
            num_gpus=gpus,
            cpu=Decimal(cpu),
            memory=gib * GIB,
            usage=None if used is None else usage,
        )
        for index in range(count)
    )


def on(cluster: Sequence[Node], spec: dict[str, Any] | None = None, **resources: Any) -> Observed:
    asked = {"nodes": 1, "gpusPerNode": 8, "cpu": None, "memory": None, **resources}
    changed = {
        group: {**PAGES.get(group, {}), **given} if isinstance(given, dict) else given
        for group, given in {"resources": asked, **(spec or {})}.items()
    }
    return observed({**PAGES, **changed}, nodes=tuple(cluster))


# The recipe's machines, as their clouds sell them: GPUs, CPUs and GiB of a node.
MACHINES = {
    "A100-80GB": {"gpus": 8, "cpu": 96, "gib": 1152},
    "A100-40GB": {"gpus": 8, "cpu": 96, "gib": 1152},
    "V100-32GB": {"gpus": 8, "cpu": 40, "gib": 672},
    "V100-16GB": {"gpus": 8, "cpu": 64, "gib": 488},
    "RTX-8000": {"gpus": 4, "cpu": 32, "gib": 256},
}
SPEED_TABLE = [
    *(("full", False, count, gpu) for count in (1, 2, 4) for gpu in ("A100-80GB", "V100-32GB")),
    ("full", True, 1, "A100-80GB"),
    ("full", True, 1, "V100-32GB"),
    ("lora", False, 1, "A100-80GB"),
    ("lora", False, 1, "V100-32GB"),
    ("qlora", False, 1, "A100-80GB"),
    ("full", False, 1, "RTX-8000"),
]


@pytest.mark.parametrize(("method", "frozen", "count", "gpu"), SPEED_TABLE)
@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_rows_of_the_recipes_speed_table_pass_on_its_machines(
    method: str, frozen: bool, count: int, gpu: str, attention: str
) -> None:
    machine = MACHINES[gpu]
    spec = {"method": method, "freezeVision": frozen, "training": {"attention": attention}}
    seen = on(nodes(gpu, count, **machine), spec, nodes=count, gpusPerNode=machine["gpus"])
    todo = plan(seen)
    assert condition(todo.status, "Accepted")["status"] == "True", condition(todo.status, "Accepted")
    placement = todo.status["placement"]
    assert Decimal(placement["cpu"].removesuffix("m")) > 0
    assert placement["product"] == gpu


def test_what_is_left_open_is_the_share_of_a_node_where_nodes_have_less_than_usual() -> None:
    large = subject_of(on(nodes("A100-80GB", 1)))[0]
    assert (large.cpu, large.memory) == ("32", "512Gi")
    small = subject_of(on(nodes("A10", 1, gpus=4, cpu=8, gib=180), gpusPerNode=4))[0]
    assert (small.cpu, small.memory) == ("7200m", f"{int(180 * 0.9 * 1024)}Mi")
    quarter = subject_of(on(nodes("A10", 1, gpus=4, cpu=8, gib=180), gpusPerNode=1))[0]
    assert (quarter.cpu, quarter.memory) == ("1800m", f"{int(180 * 0.9 * 256)}Mi")


def test_choice_and_its_reason_are_in_status_and_in_an_event_once() -> None:
    seen = on(nodes("A100-80GB", 1))
    todo = plan(seen)
    said = todo.status["placement"]["reason"]
    assert said.startswith("A100-80GB: fastest GPUs that fit, those that are free before others; 32 CPUs and")
    assert [one.message for one in todo.announcements if one.reason == "Placed"] == [said]
    later = plan(replace(seen, raw={**seen.raw, "status": todo.status}))
    assert "Placed" not in [one.reason for one in later.announcements]


def test_chosen_share_survives_in_status_and_yields_to_what_the_job_says_later() -> None:
    seen = on(nodes("A10", 1, gpus=4, cpu=8, gib=180), gpusPerNode=4)
    first, said = subject_of(seen)
    pinned = {"attempt": 1, "placement": said}
    again = replace(seen, raw={**seen.raw, "status": pinned}, nodes=())
    assert subject_of(again)[0].memory == first.memory
    edited = on((), gpusPerNode=4, memory="99Gi")
    edited = replace(edited, raw={**edited.raw, "status": pinned})
    assert subject_of(edited)[0].memory == "99Gi"


def test_pod_larger_than_the_nodes_is_refused_with_what_would_fit() -> None:
    cluster = [*nodes("A100-80GB", 1, gib=2000, cpu=200), *nodes("A100-80GB", 1, gib=400, cpu=64)]
    said = refusal(plan(on(cluster, nodes=2, cpu="100", memory="500Gi")), "NodeTooSmall")
    assert "spec.resources.cpu: each of 2 pod(s) asks for 100 CPUs, and so many of the nodes have 64" in said
    assert (
        "spec.resources.memory: each of 2 pod(s) asks for 500 GiB, and so many of the nodes have 400" in said
    )
    cpu = re.search(r"spec.resources.cpu: (\w+) would fit", said)
    memory = re.search(r"spec.resources.memory: (\w+) would fit", said)
    assert cpu is not None
    assert memory is not None
    mended = plan(on(cluster, nodes=2, cpu=cpu[1], memory=memory[1]))
    assert condition(mended.status, "Accepted")["status"] == "True"


@pytest.mark.parametrize(
    ("gpu", "spec", "resources", "machine"),
    [
        pytest.param("A100-80GB", {"method": "full"}, {"memory": "80Gi"}, {"gib": 400}, id="optimizer"),
        pytest.param("RTX-4090", {"method": "full"}, {}, {"gib": 30}, id="optimizer, and small nodes"),
        pytest.param("A10", {}, {"sharedMemory": "40Gi"}, {"gib": 30}, id="shared memory"),
    ],
)
def test_every_remedy_for_too_little_host_memory_is_one(
    gpu: str, spec: dict[str, Any], resources: dict[str, Any], machine: dict[str, int]
) -> None:
    cluster = nodes(gpu, 64, gpus=2, cpu=64, **machine)
    offload = {**spec, "training": {"offloadOptimizer": "always"}} if spec else spec
    asked = {"gpusPerNode": 2, **resources}
    said = refusal(plan(on(cluster, offload, **asked)), "NodeTooSmall")
    tried = 0
    for change, mended in {
        r"spec.resources.nodes: (\d+)": lambda text: (offload, {**asked, "nodes": int(text)}),
        r"spec.resources.sharedMemory: (\w+)": lambda text: (offload, {**asked, "sharedMemory": text}),
        r"spec.resources.memory: (\w+) or more": lambda text: (offload, {**asked, "memory": text}),
        r"spec.method: (lora)": lambda _: ({"method": "lora"}, asked),
    }.items():
        if found := re.search(change, said):
            tried += 1
            changed, with_resources = mended(found[1])
            now = condition(plan(on(cluster, changed, **with_resources)).status, "Accepted")
            assert now["status"] == "True", (found[0], now["message"])
    assert tried > 0, said


def test_best_gpus_that_can_do_the_job_are_taken_and_not_merely_the_best() -> None:
    cluster = [*nodes("V100-32GB", 4), *nodes("T4", 2)]
    qlora = subject_of(on(cluster, {"method": "qlora"}))[1]
    assert qlora["product"] == "T4"
    assert subject_of(on([*nodes("L40S", 1, gpus=1), *nodes("L4", 1)], gpusPerNode=1))[1]["product"] == "L40S"
    far_too_small = {"method": "full", "training": {"offloadOptimizer": "never"}}
    assert (
        subject_of(on([*nodes("T4", 1), *nodes("V100-32GB", 1)], far_too_small))[1]["product"] == "V100-32GB"
    )
    assert "use lora" in refusal(plan(on(nodes("V100-32GB", 4), {"method": "qlora"})), "UnsuitableGPU")


def test_gpus_that_are_free_now_go_before_better_ones_that_others_hold() -> None:
    cluster = [*nodes("H100", 2, used=4), *nodes("A100-80GB", 2)]
    assert subject_of(on(cluster, nodes=2))[1]["product"] == "A100-80GB"
    assert subject_of(on(cluster, nodes=2, gpusPerNode=4))[1]["product"] == "H100"
    unknown = [*nodes("H100", 2, used=None), *nodes("A100-80GB", 2)]
    assert subject_of(on(unknown, nodes=2))[1]["product"] == "H100"


def test_no_pod_is_made_while_others_hold_a_node_that_the_gang_needs() -> None:
    half = [*nodes("A100-80GB", 1), *nodes("A100-80GB", 1, used=1)]
    seen = prepared(on(half, nodes=2))
    todo = plan(seen)
    running = condition(todo.status, "Running")
    assert (gangs_made(todo), todo.status["phase"], running["reason"]) == (0, "Pending", "NoRoom")
    assert "1 of 2 nodes have 8 GPU(s) of the kind chosen" in running["message"]
    assert todo.look_again is not None
    free = replace(seen, nodes=nodes("A100-80GB", 2))
    assert gangs_made(plan(free)) == 1


@pytest.mark.parametrize("what", ["cpu", "memory"])
def test_cpu_and_memory_must_be_free_as_well(what: str) -> None:
    (node,) = nodes("A100-80GB", 1)
    assert node.cpu is not None
    assert node.memory is not None
    usage = Usage(cpu=node.cpu - 1) if what == "cpu" else Usage(memory=node.memory - GIB)
    seen = prepared(on([node]))
    assert gangs_made(plan(seen)) == 1
    assert gangs_made(plan(replace(seen, nodes=(replace(node, usage=usage),)))) == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"priorityClassName": "high"}},
        {"podTemplate": {"schedulerName": "volcano"}},
    ],
)
def test_who_makes_room_is_shown_the_pods(spec: dict[str, Any]) -> None:
    assert gangs_made(plan(prepared(on(nodes("A100-80GB", 1, used=8), spec)))) == 1


def test_two_jobs_that_each_need_the_whole_cluster_follow_each_other() -> None:
    cluster = nodes("A100-80GB", 2)
    first = prepared(on(cluster, nodes=2))
    assert gangs_made(plan(first)) == 1
    pods = [
        {
            "metadata": {},
            "spec": {
                "nodeName": node.name,
                "containers": [{"resources": {"requests": {"nvidia.com/gpu": "8"}}}],
            },
            "status": {"phase": phase},
        }
        for node, phase in zip(cluster, ("Running", "Pending"), strict=True)
    ]
    held = tuple(replace(node, usage=usage_of(pods)[node.name]) for node in cluster)
    assert gangs_made(plan(replace(first, nodes=held))) == 0
    ended = [{**one, "status": {"phase": "Succeeded"}} for one in pods]
    assert usage_of(ended) == {}


def test_resumed_job_that_waits_for_room_is_not_called_suspended_and_loses_nothing() -> None:
    seen = prepared(on(nodes("A100-80GB", 2, used=8), nodes=2))
    stopped = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": ""}
    status = {**seen.status, "attempt": 1, "conditions": [*seen.status["conditions"], stopped]}
    todo = plan(replace(seen, raw={**seen.raw, "status": status}))
    assert condition(todo.status, "Suspended")["status"] == "False"
    assert (gangs_made(todo), todo.status["phase"]) == (0, "Pending")
    free = replace(seen, raw={**seen.raw, "status": todo.status}, nodes=nodes("A100-80GB", 2))
    started = plan(free)
    assert (gangs_made(started), started.status["attempt"]) == (1, 2)
    assert "failure" not in started.status


def test_next_attempt_waits_for_room_too_and_stays_restarting() -> None:
    seen = prepared(on(nodes("A100-80GB", 2, used=8), nodes=2))
    status = {**seen.status, **interrupted(seen.status), "phase": "Restarting"}
    todo = plan(replace(seen, raw={**seen.raw, "status": status}))
    assert (gangs_made(todo), todo.status["phase"]) == (0, "Restarting")
    assert condition(todo.status, "Running")["reason"] == "NoRoom"


def test_pool_without_a_node_counts_and_its_pods_are_made_for_the_autoscaler_to_see() -> None:
    seen = with_pool(on((), nodes=4))
    said = subject_of(seen)[1]
    assert (said["pool"], said["product"]) == ("a100", "A100-80GB")
    assert said["nodeLabels"] == ["cloud.google.com/gke-nodepool=a100"]
    assert "; pool a100 grows for it; " in said["reason"]
    todo = plan(prepared(seen))
    assert gangs_made(todo) == 1
    (gang,) = [
        action.body for action in todo.actions if getattr(action, "body", {}).get("kind") == "PyTorchJob"
    ]
    spec = gang["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    assert "gke-nodepool" in str(spec["affinity"]["nodeAffinity"])


@pytest.mark.parametrize(
    ("change", "resources"),
    [
        ({"max_nodes": 3}, {"nodes": 4}),
        ({"gpus_per_node": 4}, {"nodes": 1}),
        ({}, {"nodes": 1, "gpuProducts": ["H100"]}),
        ({}, {"nodes": 1, "nodeSelector": {"zone": "b"}}),
    ],
)
def test_pool_that_does_not_make_up_for_it_is_none(change: dict[str, Any], resources: dict[str, Any]) -> None:
    refusal(plan(with_pool(on((), **resources), **change)), "NoSuchGPU")


def test_pool_adds_to_the_nodes_of_its_product_that_are_free() -> None:
    there = tuple(replace(node, labels={**node.labels, **POOL.labels}) for node in nodes("A100-80GB", 2))
    said = subject_of(with_pool(on(there, nodes=4)))[1]
    assert said["nodeLabels"] == ["nvidia.com/gpu.product=A100-80GB", "cloud.google.com/gke-nodepool=a100"]
    assert "pool" not in subject_of(with_pool(on(there, nodes=2)))[1]
    refusal(plan(with_pool(on(there, nodes=5))), "NoSuchGPU")


def test_pool_grows_again_for_a_job_whose_nodes_it_has_taken_away_since() -> None:
    there = tuple(replace(node, labels={**node.labels, **POOL.labels}) for node in nodes("A100-80GB", 2))
    seen = prepared(with_pool(on(there, nodes=2)))
    assert "pool" not in seen.status["placement"]
    assert "pool" not in plan(seen).status["placement"]
    for left in ((), there[:1]):
        todo = plan(replace(seen, nodes=left))
        assert gangs_made(todo) == 1, "nobody else would tell the autoscaler"
        placement = todo.status["placement"]
        assert placement["pool"] == "a100"
        assert placement["nodeLabels"][-1] == "cloud.google.com/gke-nodepool=a100"
        again = replace(seen, raw={**seen.raw, "status": todo.status}, nodes=None)
        for planned in (todo, plan(again)):
            assert "gke-nodepool" in str([one.body for one in planned.actions if isinstance(one, Create)][-1])


@pytest.mark.parametrize("change", [{"max_nodes": 2}, {"memory": "100Gi"}, {"cpu": "8"}, {"product": "H100"}])
def test_next_attempt_waits_for_room_that_no_pool_can_make(change: dict[str, Any]) -> None:
    held = tuple(
        replace(node, labels={**node.labels, **POOL.labels}) for node in nodes("A100-80GB", 2, used=8)
    )
    placement = subject_of(on(nodes("A100-80GB", 2), nodes=2))[1]
    seen = prepared(with_pool(on(held, nodes=2), **change), placement=placement)
    todo = plan(replace(seen, raw={**seen.raw, "status": {**seen.status, **interrupted(seen.status)}}))
    assert condition(todo.status, "Running")["reason"] == "NoRoom"


def test_gang_that_a_pool_is_too_small_for_waits_for_the_nodes_that_others_hold() -> None:
    held = tuple(
        replace(node, labels={**node.labels, **POOL.labels}) for node in nodes("A100-80GB", 2, used=8)
    )
    seen = with_pool(on(held, nodes=2, memory="512Gi"), memory="100Gi")
    assert "pool" not in subject_of(seen)[1]
    assert condition(plan(prepared(seen)).status, "Running")["reason"] == "NoRoom"
    smaller = with_pool(on(held, nodes=2), memory="100Gi")
    said = subject_of(smaller)[1]
    assert (said["pool"], said["memory"]) == ("a100", "92160Mi")


def test_pods_too_large_for_the_nodes_of_a_pool_are_refused() -> None:
    said = refusal(plan(with_pool(on((), memory="2000Gi"))), "NodeTooSmall")
    assert "have 1100" in said


def test_network_profile_reaches_the_pods_and_yields_to_the_jobs_own_variables() -> None:
    profile = NetworkProfile(
        product="A100-80GB", env={"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "WARN"}, resources={"rdma/hca": 1}
    )
    labelled = [
        replace(node, labels={**node.labels, "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"})
        for node in nodes("A100-80GB", 1)
    ]
    seen = on(labelled, {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]})
    seen = replace(seen, settings=replace(seen.settings, network_profiles=(profile,)))
    decided, said = subject_of(seen)
    assert said["networkProfile"] == "A100-80GB"
    template = pytorchjob(decided, 1)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    (container,) = template["spec"]["containers"]
    env = [(variable["name"], variable.get("value")) for variable in container["env"]]
    assert ("NCCL_IB_HCA", "mlx5") in env
    assert [value for name, value in env if name == "NCCL_DEBUG"] == ["INFO"]
    assert container["resources"]["limits"]["rdma/hca"] == "1"
    assert container["resources"]["requests"]["rdma/hca"] == "1"
    other = replace(seen, nodes=nodes("H100", 1))
    assert "networkProfile" not in subject_of(other)[1]


def test_resources_of_the_network_profile_must_be_there_and_free() -> None:
    profile = NetworkProfile(product="A100-80GB", resources={"rdma/hca": 2})
    first, second = (replace(node, devices={"rdma/hca": 2}) for node in nodes("A100-80GB", 2))
    bare = replace(second, devices={})
    seen = on((first, bare), nodes=2)
    seen = replace(seen, settings=replace(seen.settings, network_profiles=(profile,)))
    said = refusal(plan(seen), "NodeTooSmall")
    assert "ask for rdma/hca: 2, and 1 of 2 node(s) have that, where 2 must" in said
    waits = prepared(replace(seen, nodes=(first, second)))
    assert gangs_made(plan(waits)) == 1
    held = replace(second, usage=Usage(devices=Counter({"rdma/hca": 1})))
    assert gangs_made(plan(replace(waits, nodes=(first, held)))) == 0
    not_told = replace(second, devices=None)
    assert gangs_made(plan(replace(waits, nodes=(first, not_told)))) == 1


def test_requests_are_counted_as_the_scheduler_counts_them() -> None:
    def container(cpu: str, memory: str, **more: Any) -> Object:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory, "nvidia.com/gpu": "1"}}, **more}

    spec = {
        "nodeName": "n",
        "initContainers": [container("8", "1Gi"), container("500m", "1Gi", restartPolicy="Always")],
        "containers": [container("1", "2Gi"), container("1", "2Gi")],
        "overhead": {"cpu": "250m"},
    }
    placeholder = {**spec, "priority": -10}
    specs = ({**spec, "priority": 0}, placeholder, {"containers": []})
    usage = usage_of([{"metadata": {}, "spec": of_pod} for of_pod in specs])
    assert set(usage) == {"n"}
    assert (usage["n"].cpu, usage["n"].memory) == (Decimal("8.25"), 5 * GIB)
    assert usage["n"].devices["nvidia.com/gpu"] == 3


class Seen(dict[str, Any]):
    """An object of which one can tell whether anybody still holds it: a plain dict cannot be watched."""


class Api:
    """Answers LISTs, and counts them."""

    def __init__(self, *, may_list_pods: bool = True, num_pages: int = 1) -> None:
        self.asked: list[Kind] = []
        self.may_list_pods = may_list_pods
        self.num_pages = num_pages
        self.most_held = 0

    async def pages(self, kind: Kind, *, fields: str = "") -> AsyncIterator[Sequence[Object]]:
        self.asked.append(kind)
        if kind != POD:
            status = {"allocatable": {"nvidia.com/gpu": "8", "cpu": "96", "memory": "1Ti"}}
            yield [{"metadata": {"name": "n"}, "status": status}]
            return
        if not self.may_list_pods:
            raise ApiError(403, "Forbidden", "pods is forbidden")
        requests = {"nvidia.com/gpu": "5"}
        given: list[weakref.ref[Seen]] = []
        for _ in range(self.num_pages):
            self.most_held = max(self.most_held, sum(pod() is not None for pod in given))
            of_pod = {"nodeName": "n", "containers": [{"resources": {"requests": requests}}]}
            page = [Seen(metadata={}, spec=of_pod)]
            given += map(weakref.ref, page)
            yield page
            requests = {}


@pytest.mark.parametrize(("may_list_pods", "free"), [(True, 3), (False, 8)])
def test_many_jobs_that_look_at_once_read_the_nodes_once(may_list_pods: bool, free: int) -> None:
    api = Api(may_list_pods=may_list_pods)
    capacity = Capacity(api)  # type: ignore[arg-type]

    async def look() -> list[Reading]:
        return await asyncio.gather(*(capacity.nodes() for _ in range(100)))

    (((node,), _), *_) = asyncio.run(look())
    assert len(api.asked) == 2
    assert node.num_free(gpus=free)
    assert not node.num_free(gpus=free + 1)


def test_an_operator_that_may_not_list_pods_asks_again_only_after_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, now = Api(may_list_pods=False), [1000.0]
    capacity = Capacity(api)  # type: ignore[arg-type]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("phitune_operator.capacity.time", clock)
    for later in (0, 60, 60, 60, 60, 61):
        now[0] += later
        asyncio.run(capacity.nodes())
    assert api.asked.count(NODE) == 6
    assert api.asked.count(POD) == 2


def test_pods_of_a_large_cluster_are_never_held_all_at_once() -> None:
    api = Api(num_pages=20)
    ((node,), _) = asyncio.run(Capacity(api).nodes())  # type: ignore[arg-type]
    assert node.num_free(gpus=3)
    assert not node.num_free(gpus=4)
    assert 0 < api.most_held <= 2
