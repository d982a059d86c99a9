"""Jobs that wait for room look at the same nodes: what one was granted is not there for the next."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.jobs import SMALL, finetunejob, merged
from harness.operator_view import PREPARED, observed
from harness.simulated_cluster import SimulatedCluster
from phitune_operator import capacity, names
from phitune_operator.cluster_settings import NetworkProfile
from phitune_operator.fields import quantity
from phitune_operator.granted import Granted
from phitune_operator.kinds import (
    NODE,
    POD,
    PYTORCHJOB,
    WATCHED,
    Key,
    Kind,
    Object,
)
from phitune_operator.metrics import Metrics
from phitune_operator.nodes import Node
from phitune_operator.observe import Observer
from phitune_operator.observed import Settings
from phitune_operator.progress import ProgressPoller
from phitune_operator.queue import WorkQueue
from phitune_operator.reconcile import Reconciler
from phitune_operator.store import Store
from phitune_operator.usage import Usage

GPUS, CPUS = 8, 200
ON_CPU = 4
"""Pods on CPU that fit on a node."""
SHARED: Object = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "shared", "namespace": "team"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound", "capacity": {"storage": "100Ti"}},
}


class BoundedCluster(SimulatedCluster):
    """Nodes of eight GPUs and 200 CPUs, and a scheduler that puts a pod anywhere where there is room."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.nodes = [f"node-{index}" for index in range(num_nodes)]
        self.num_reads = 0

    async def pages(self, kind: Kind, *, fields: str = "") -> AsyncIterator[Sequence[Object]]:
        await asyncio.sleep(0)
        self.num_reads += kind == NODE
        yield list(map(self._node, self.nodes)) if kind == NODE else self.of_kind(kind)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        await asyncio.sleep(0)  # others look meanwhile
        return await super().get(kind, namespace, name)

    def _node(self, name: str) -> Object:
        labels = {names.LABEL_GPU_PRODUCT: "H100"}
        allocatable = {names.GPU_RESOURCE: str(GPUS), "cpu": str(CPUS), "memory": "2Ti"}
        ready = [{"type": "Ready", "status": "True"}]
        return {
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": allocatable, "conditions": ready},
        }

    def bind(self, pod: Object, choice: random.Random) -> None:
        """What the scheduler does with a pod: it waits where no node has room."""
        taken: dict[str, list[Object]] = {name: [] for name in self.nodes}
        for other in self.of_kind(POD):
            if node := other["spec"].get("nodeName"):
                taken[node].append(other)
        if roomy := [name for name, others in taken.items() if _fit([*others, pod])]:
            self.change(pod, lambda known: known["spec"].update(nodeName=choice.choice(roomy)))

    def waiting(self) -> list[Object]:
        return [pod for pod in self.of_kind(POD) if not pod["spec"].get("nodeName")]


def _fit(pods: Sequence[Object]) -> bool:
    """Whether one node has room for them all."""
    asked = [pod["spec"]["containers"][0]["resources"]["requests"] for pod in pods]
    gpus = sum(int(one.get(names.GPU_RESOURCE, 0)) for one in asked)
    return gpus <= GPUS and sum(quantity(one["cpu"]) for one in asked) <= CPUS


class Herd:
    """Jobs that have all they need but nodes, and the operator that looks at them."""

    def __init__(self, *, num_jobs: int, num_nodes: int, nodes_each: int, on_cpu: bool) -> None:
        self.cluster = BoundedCluster(num_nodes)
        self.cluster.put_new(copy.deepcopy(SHARED))
        self.keys = [Key("team", f"job-{index}") for index in range(num_jobs)]
        gpus = {"gpusPerNode": GPUS, "cpu": None, "memory": None}
        cpus = {"gpusPerNode": 0, "cpu": str(CPUS // ON_CPU), "memory": "64Gi"}
        asked = {
            "resources": {"nodes": nodes_each, **(cpus if on_cpu else gpus)},
            "training": {"globalBatchSize": GPUS * nodes_each},
            "storage": {"size": None, "claimName": "shared"},
        }
        for key in self.keys:
            job = finetunejob(key.name) | {"spec": merged(SMALL, asked)}
            job["metadata"]["namespace"] = key.namespace
            prepared = [one for one in PREPARED["conditions"] if one["type"] == "Prepared"]
            job["status"] = {"attempt": 0, "conditions": copy.deepcopy(prepared)}
            self.cluster.put_new(job)
        self.start_operator()

    def start_operator(self) -> None:
        """Begin with empty memory and a LIST of everything."""
        store, unused = Store(), Any
        for kind in WATCHED:
            for obj in self.cluster.of_kind(kind):
                store.absorb(kind, obj)
        told = Settings(trainer_image="trainer:1")
        kube: Any = self.cluster
        observer = Observer(kube, store, ProgressPoller(unused), told)  # type: ignore[arg-type]
        self.operator = Reconciler(
            kube, store, WorkQueue(), observer, Metrics(), clock=lambda: self.cluster.now
        )
        self.store = store

    async def look(self, keys: Sequence[Key]) -> None:
        """At several jobs at the same time, after the watches have told all there is."""
        for kind in WATCHED:
            for obj, deleted in self.cluster.told[kind]:
                self.store.absorb(kind, obj, deleted=deleted)
            self.cluster.told[kind].clear()
        await asyncio.gather(*map(self.operator.reconcile, keys))

    def make_pods(self) -> None:
        """The training-operator does what it can; nothing starts."""
        while moves := [move for name, move in self.cluster.moves() if name.startswith("pod ")]:
            moves[0]()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    num_jobs=st.integers(1, 7),
    num_nodes=st.integers(0, 6),
    nodes_each=st.integers(1, 3),
    on_cpu=st.booleans(),
    is_read_anew=st.booleans(),
)
def test_of_jobs_that_wait_as_many_start_as_there_is_room_for_in_any_order(
    seed: int, num_jobs: int, num_nodes: int, nodes_each: int, on_cpu: bool, is_read_anew: bool
) -> None:
    choice = random.Random(seed)
    nodes_each += on_cpu  # a pod that is alone on CPU is left to the scheduler

    async def run() -> Herd:
        herd = Herd(num_jobs=num_jobs, num_nodes=num_nodes, nodes_each=nodes_each, on_cpu=on_cpu)
        for _ in range(20):
            what = choice.choice(["look", "look", "pods", "bind", "bind", "restart"])
            if what == "look":
                await herd.look(choice.sample(herd.keys, choice.randint(1, num_jobs)))
            elif what == "pods":
                herd.make_pods()
            elif what == "bind" and (waiting := herd.cluster.waiting()):
                herd.cluster.bind(choice.choice(waiting), choice)
            elif what == "restart":
                herd.start_operator()
        await herd.look(herd.keys)
        herd.make_pods()
        for pod in herd.cluster.waiting():
            herd.cluster.bind(pod, choice)
        return herd

    with pytest.MonkeyPatch.context() as patched:
        if is_read_anew:
            patched.setattr(capacity, "FRESH", 0.0)
            patched.setattr(capacity, "SHARE", 0)
        herd = asyncio.run(run())
    gangs = herd.cluster.of_kind(PYTORCHJOB)
    room_for = num_nodes * (ON_CPU if on_cpu else 1)
    assert len(gangs) == min(num_jobs, room_for // nodes_each)
    assert herd.cluster.waiting() == [], "a gang is whole or not there"


def test_what_a_network_profile_asks_for_is_granted_as_well() -> None:
    profile = NetworkProfile(product="H100", resources={"rdma/hca": 1})
    told = Settings(trainer_image="trainer:1", network_profiles=(profile,))
    asked = {
        "resources": {"nodes": 1, "gpusPerNode": 4, "cpu": None, "memory": None},
        "training": {"globalBatchSize": 4},
    }
    labels = {names.LABEL_GPU_PRODUCT: "H100"}
    placement = {"product": "H100", "nodeLabels": [f"{names.LABEL_GPU_PRODUCT}=H100"], "memory": "64Gi"}
    creating = {"type": "Running", "status": "False", "reason": "Creating"}
    status = {"attempt": 1, "placement": placement, "conditions": [creating]}
    first, granted = observed(asked, status), Granted(Store(), told)
    granted.note(first, status)
    node = Node(name="a", labels=labels, num_gpus=8, devices={"rdma/hca": 1}, usage=Usage())
    other = {**first.raw, "metadata": {**first.raw["metadata"], "name": "other", "uid": "other"}}
    (seen,) = granted.held(replace(first, raw=other, nodes=(node,))).nodes or ()
    assert seen.num_free(gpus=4)
    assert not seen.num_free(gpus=4, devices={"rdma/hca": 1})


@pytest.mark.parametrize("gpus", [0, 4])
def test_what_a_gang_was_granted_of_a_nodes_cpus_is_there_for_no_other_with_gpus_or_without(
    gpus: int,
) -> None:
    asked = {
        "resources": {"nodes": 2, "gpusPerNode": gpus, "cpu": "40", "memory": "64Gi"},
        "training": {"globalBatchSize": 8},
    }
    placement = {"product": "H100" if gpus else "CPU", "cpu": "40", "memory": "64Gi"}
    creating = {"type": "Running", "status": "False", "reason": "Creating"}
    status = {"attempt": 1, "placement": placement, "conditions": [creating]}
    first, granted = observed(asked, status), Granted(Store(), Settings(trainer_image="trainer:1"))
    granted.note(first, status)
    labels = {names.LABEL_GPU_PRODUCT: "H100"}
    sizes: Object = {"cpu": Decimal(100), "memory": 2**40, "usage": Usage()}
    cluster = (
        *(Node(name="a", labels=labels, num_gpus=8, resource=resource, **sizes) for resource in TWO_KINDS),
        Node(name="b", labels=labels, num_gpus=8, **sizes),
    )
    other = {**first.raw, "metadata": {**first.raw["metadata"], "name": "other", "uid": "other"}}
    for spec in ({}, {"resources": {"gpusPerNode": 1}}):
        asks = replace(observed(spec), raw=other, nodes=cluster)
        held = granted.held(asks).nodes or ()
        left = [node.num_free(cpu=Decimal(20)) for node in held]
        # With GPUs each pod has its own node; on CPU both may be on the first.
        assert left == ([3, 3, 3] if gpus else [1, 1, 5])
    granted.forget(first.key)
    assert granted.held(asks).nodes == cluster


TWO_KINDS = (names.GPU_RESOURCE, "nvidia.com/mig-3g.20gb")
