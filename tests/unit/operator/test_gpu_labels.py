"""What a node's GPUs are is read from whatever labels its cluster has."""

from __future__ import annotations

from typing import Any

import pytest

from harness.operator_view import observed
from phitune_operator.blocked import BlockedError
from phitune_operator.gpu_labels import driver_of, read_labels
from phitune_operator.gpu_names import is_meant
from phitune_operator.nodes import Node, read_nodes
from phitune_operator.placement import candidates
from phitune_operator.plan import plan
from phitune_operator.render import render_job
from phitune_operator.wish import Wish, matches
from phitune_trainer.memory import GPUS

GIB = 2**30
DISCOVERED = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB",
    "nvidia.com/gpu.memory": "40960",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "0",
}
GKE_A100 = {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}
MACHINE = "node.kubernetes.io/instance-type"
SLICE = {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"}
TURNS = {
    "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
    "cloud.google.com/gke-max-shared-clients-per-gpu": "4",
}


@pytest.mark.parametrize(
    ("labels", "product", "gib", "capability"),
    [
        pytest.param(DISCOVERED, "NVIDIA-A100-SXM4-40GB", 40, (8, 0), id="GPU feature discovery"),
        pytest.param(
            {"nvidia.com/gpu.product": "Tesla-V100-SXM2-32GB"}, "Tesla-V100-SXM2-32GB", 32, (7, 0),
            id="its product alone",
        ),
        pytest.param({**GKE_A100, **DISCOVERED}, "NVIDIA-A100-SXM4-40GB", 40, (8, 0), id="before GKE"),
        pytest.param(GKE_A100, "nvidia-tesla-a100", 40, (8, 0), id="GKE"),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}, "nvidia-tesla-v100", 16, (7, 0),
            id="GKE, a name without memory",
        ),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"},
            "nvidia-h100-mega-80gb", 79.6, (9, 0), id="GKE, of another network",
        ),
        pytest.param({MACHINE: "p4d.24xlarge"}, "A100-40GB", 40, (8, 0), id="EKS"),
        pytest.param({MACHINE: "p4de.24xlarge"}, "A100-80GB", 80, (8, 0), id="EKS, the larger memory"),
        pytest.param({MACHINE: "g5.12xlarge"}, "A10G", 22.2, (8, 6), id="EKS, a GPU of Amazon's"),
        pytest.param({MACHINE: "Standard_ND40rs_v2"}, "V100-32GB", 32, (7, 0), id="AKS"),
        pytest.param(
            {MACHINE: "Standard_ND96amsr_A100_v4", "kubernetes.azure.com/accelerator": "nvidia"},
            "A100-80GB", 80, (8, 0), id="AKS, with what says no more than nvidia",
        ),
        pytest.param({MACHINE: "Standard_ND96isr_H100_v5"}, "H100", 79.6, (9, 0), id="AKS, H100"),
        pytest.param(
            {"karpenter.k8s.aws/instance-gpu-name": "l4", "karpenter.k8s.aws/instance-gpu-memory": "24576"},
            "L4", 22.5, (8, 9), id="Karpenter",
        ),
        pytest.param({MACHINE: "m5.large"}, "", None, None, id="nothing says so"),
    ],
)  # fmt: skip
def test_gpu_of_a_node(
    labels: dict[str, str], product: str, gib: float | None, capability: tuple[int, int] | None
) -> None:
    found = read_labels(labels)
    assert (found.gpu.name, found.gpu.compute_capability) == (product, capability)
    assert found.gpu.memory is None if gib is None else found.gpu.memory == pytest.approx(gib * GIB, rel=0.01)
    assert matches(labels, [found.selector])


@pytest.mark.parametrize(
    ("labels", "resource", "product", "gib"),
    [
        pytest.param(
            {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", "nvidia.com/gpu.memory": "19968"},
            "nvidia.com/gpu", "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", 19.5, id="all cut alike",
        ),
        pytest.param(
            DISCOVERED, "nvidia.com/mig-1g.5gb", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4.75,
            id="cut in different ways",
        ),
        pytest.param(
            {**DISCOVERED, "nvidia.com/mig-3g.20gb.memory": "19968"}, "nvidia.com/mig-3g.20gb",
            "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", 19.5, id="cut in different ways, with memory",
        ),
        pytest.param(
            {**GKE_A100, **SLICE}, "nvidia.com/gpu", "nvidia-tesla-a100-MIG-1g.5gb", 4.75, id="cut by GKE"
        ),
        pytest.param(
            {"nvidia.com/gpu.product": "Tesla-T4-SHARED", "nvidia.com/gpu.replicas": "3"},
            "nvidia.com/gpu", "Tesla-T4-SHARED", 5, id="in turn",
        ),
        pytest.param(
            {**DISCOVERED, "nvidia.com/gpu.replicas": "2"}, "nvidia.com/gpu.shared",
            "NVIDIA-A100-SXM4-40GB-SHARED", 20, id="in turn, under another resource",
        ),
        pytest.param(
            {**GKE_A100, **TURNS}, "nvidia.com/gpu", "nvidia-tesla-a100-SHARED", 10, id="in turn, by GKE"
        ),
    ],
)  # fmt: skip
def test_part_of_a_gpu_has_a_name_and_memory_of_its_own(
    labels: dict[str, str], resource: str, product: str, gib: float
) -> None:
    found = read_labels(labels, resource)
    assert (found.gpu.name, found.gpu.memory) == (product, pytest.approx(gib * GIB, rel=0.01))
    assert found.gpu.compute_capability in ((8, 0), (7, 5))


def test_whole_gpus_of_gke_are_not_looked_for_among_its_slices() -> None:
    whole = read_labels(GKE_A100).selector
    assert matches(GKE_A100, [whole])
    assert not matches({**GKE_A100, **SLICE}, [whole])
    assert not matches({**GKE_A100, **TURNS}, [whole])


@pytest.mark.parametrize("key", ["nvidia.com/cuda.driver.major", "nvidia.com/cuda.driver-version.major"])
def test_driver_is_read_from_old_and_new_labels(key: str) -> None:
    assert driver_of({key: "535"}) == 535
    assert driver_of({}) is None


@pytest.mark.parametrize(
    ("asked", "product", "gets_it"),
    [
        ("A100-80GB", "NVIDIA-A100-SXM4-80GB", True),
        ("A100-80GB", "nvidia-a100-80gb", True),
        ("NVIDIA-A100-SXM4-80GB", "nvidia-a100-80gb", True),
        ("A100-80GB", "NVIDIA-A100-SXM4-40GB", False),
        ("A10", "NVIDIA-A100-SXM4-40GB", False),
        ("V100", "Tesla-V100-SXM2-32GB", True),
        ("V100", "nvidia-tesla-v100", True),
        ("A100", "NVIDIA-A100-SXM4-40GB", True),
        ("A100", "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", False),
        ("A100", "NVIDIA-A100-SXM4-40GB-SHARED", False),
        ("V100-32GB", "Tesla-V100-SXM2-16GB", False),
        ("T4", "Tesla-T4-SHARED", False),
        ("Tesla-T4-SHARED", "Tesla-T4-SHARED", True),
        ("A100-40GB", "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", False),
        ("Custom", "Custom", True),
        ("Custom", "Other", False),
    ],
)
def test_product_is_known_by_its_other_names(asked: str, product: str, gets_it: bool) -> None:
    assert is_meant(asked, product) == gets_it


def node(name: str, labels: dict[str, str], gpus: int = 8, resource: str = "nvidia.com/gpu") -> Node:
    return Node(name=name, labels=labels, num_gpus=gpus, resource=resource)


SHARED = node("shared", {"nvidia.com/gpu.product": "Tesla-T4-SHARED", "nvidia.com/gpu.replicas": "4"})
SLICES = node("cut", DISCOVERED, resource="nvidia.com/mig-3g.20gb")


@pytest.mark.parametrize("part", [SHARED, SLICES], ids=lambda part: part.product)
def test_part_of_a_gpu_is_taken_by_its_name_alone(part: Node) -> None:
    with pytest.raises(BlockedError, match=r"gpuProducts: \[.*\] with gpusPerNode: 1") as refused:
        candidates([part], Wish(num_nodes=1, gpus_per_node=1))
    assert refused.value.reason == "NoSuchGPU"
    (found,) = candidates([part], Wish(num_nodes=1, gpus_per_node=1, products=[part.product]))
    assert (found.product, found.resource) == (part.product, part.resource)


@pytest.mark.parametrize("part", [SHARED, SLICES], ids=lambda part: part.product)
def test_parts_of_one_gpu_never_train_together(part: Node) -> None:
    with pytest.raises(BlockedError, match="parts of one GPU cannot train together") as refused:
        candidates([part], Wish(num_nodes=1, gpus_per_node=2, products=[part.product]))
    assert refused.value.reason == "UnsuitableGPU"


def test_slice_is_asked_for_by_its_own_resource_on_the_nodes_that_have_it() -> None:
    asked = {"nodes": 1, "gpusPerNode": 1, "cpu": None, "memory": None, "gpuProducts": [SLICES.product]}
    seen = observed({"resources": asked}, nodes=(SLICES,))
    todo = plan(seen)
    assert todo.status["placement"]["resource"] == "nvidia.com/mig-3g.20gb"
    (gang,) = [made for made in made_for(seen, todo.status) if made["kind"] == "PyTorchJob"]
    (container,) = gang["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/mig-3g.20gb"] == "1"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def made_for(seen: Any, status: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a job whose placement is read back from status."""
    from phitune_operator.decide import subject_of

    again = observed({"resources": seen.raw["spec"]["resources"]}, status, nodes=seen.nodes)
    return render_job(subject_of(again)[0])


def test_two_sizes_of_one_machine_family_are_one_kind_and_two_kinds_never_mix() -> None:
    small, large = node("a", {MACHINE: "g5.12xlarge"}, 4), node("b", {MACHINE: "g5.48xlarge"}, 8)
    (both,) = candidates([small, large], Wish(num_nodes=2, gpus_per_node=4))
    assert both.selectors == (f"{MACHINE}=g5.12xlarge", f"{MACHINE}=g5.48xlarge")
    with pytest.raises(BlockedError):
        candidates([small, node("c", {MACHINE: "g6.48xlarge"})], Wish(num_nodes=2, gpus_per_node=4))


def test_unlabelled_gpus_are_not_looked_for_among_labelled_ones() -> None:
    (found,) = candidates([node("bare", {})], Wish(num_nodes=1, gpus_per_node=1))
    assert found.product == ""
    assert not matches(DISCOVERED, found.selectors)
    assert not matches(GKE_A100, found.selectors)


def test_node_that_has_whole_gpus_and_slices_counts_as_both() -> None:
    allocatable = {"nvidia.com/gpu": "6", "nvidia.com/mig-3g.20gb": "4", "nvidia.com/mig-1g.5gb": "0"}
    ready = [{"type": "Ready", "status": "True"}]
    found = read_nodes(
        [
            {
                "metadata": {"name": "n", "labels": DISCOVERED},
                "status": {"allocatable": allocatable, "conditions": ready},
            }
        ],
        None,
    )
    assert [(one.resource, one.num_gpus) for one in found] == [
        ("nvidia.com/gpu", 6),
        ("nvidia.com/mig-3g.20gb", 4),
    ]


def test_every_gpu_that_is_known_by_name_has_a_place_in_the_order_and_the_fastest_is_first() -> None:
    cluster = [node(name, {"nvidia.com/gpu.product": name}) for name in reversed(GPUS)]
    wish = Wish(num_nodes=1, gpus_per_node=8)
    assert [found.product for found in candidates(cluster, wish)] == list(GPUS)
