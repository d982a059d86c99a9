"""One GPU product for the whole gang, chosen from the labels of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from phitune_operator.api import Toleration
from phitune_operator.api_affinity import NodeAffinity
from phitune_operator.blocked import BlockedError
from phitune_operator.cluster_settings import Pool
from phitune_operator.nodes import Node, read_nodes, with_gpus
from phitune_operator.placement import Placement, candidates
from phitune_operator.wish import Wish


def nodes(product: str, count: int, gpus: int = 8, capability: tuple[int, int] = (8, 0)) -> list[Node]:
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.compute.major": str(capability[0]),
        "nvidia.com/gpu.compute.minor": str(capability[1]),
    }
    return [Node(name=f"{product}-{index}", labels=labels, num_gpus=gpus) for index in range(count)]


def choose(cluster: Sequence[Node], **wish: Any) -> Placement:
    """The best of what there is."""
    return candidates(cluster, Wish(**wish))[0]


H100 = nodes("H100", 2, capability=(9, 0))
A100 = nodes("A100", 4)
V100 = nodes("V100", 4, capability=(7, 0))


@pytest.mark.parametrize(
    ("cluster", "num_nodes", "products", "chosen"),
    [
        pytest.param([*V100, *A100, *H100], 2, [], "H100", id="fastest that fits"),
        pytest.param([*V100, *A100, *H100], 3, [], "A100", id="fastest is too few"),
        pytest.param([*A100, *H100], 2, ["A100", "H100"], "A100", id="first of those asked for"),
        pytest.param([*A100, *H100], 3, ["H100", "A100"], "A100", id="second, for the first is too few"),
    ],
)
def test_product(cluster: list[Node], num_nodes: int, products: list[str], chosen: str) -> None:
    placement = choose(cluster, num_nodes=num_nodes, gpus_per_node=8, products=products)
    assert placement.product == chosen


def test_compute_capability_is_that_of_the_product() -> None:
    assert choose(V100, num_nodes=1, gpus_per_node=1).compute_capability == (7, 0)


def test_memory_is_the_least_that_the_labels_tell_of() -> None:
    small, large = nodes("A100", 2)
    labels = [
        {**node.labels, "nvidia.com/gpu.memory": mib} for node, mib in ((small, "40960"), (large, "81920"))
    ]
    cluster = [replace(node, labels=label) for node, label in zip((small, large), labels, strict=True)]
    assert choose(cluster, num_nodes=2, gpus_per_node=8).gpu_memory == 40 * 2**30


def test_unlabelled_memory_is_that_of_the_products_name() -> None:
    known = nodes("Tesla-V100-SXM2-32GB", 1, capability=(7, 0))
    assert choose(known, num_nodes=1, gpus_per_node=1).gpu_memory == 32 * 2**30
    assert choose(nodes("Custom", 1), num_nodes=1, gpus_per_node=1).gpu_memory is None


def test_two_kinds_are_never_mixed_to_make_up_the_number() -> None:
    with pytest.raises(BlockedError, match=r"2 node.s. with 8x H100") as refused:
        choose([*H100, *nodes("A100", 2)], num_nodes=4, gpus_per_node=8)
    assert refused.value.reason == "NoSuchGPU"


def test_selector_bounds_the_choice() -> None:
    with pytest.raises(BlockedError, match="nodeSelector and affinity select have no GPU"):
        choose(A100, num_nodes=1, gpus_per_node=1, node_selector={"pool": "mine"})


def test_cpu_needs_no_node() -> None:
    assert choose([], num_nodes=4, gpus_per_node=0).product == ""


def gpu_node_of(taints: Sequence[Any] = (), *, ready: str = "True") -> Node:
    (node,) = read_nodes(
        [
            {
                "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "A100"}},
                "spec": {"taints": list(taints)},
                "status": {
                    "allocatable": {"nvidia.com/gpu": "8"},
                    "conditions": [{"type": "Ready", "status": ready}],
                },
            }
        ],
        None,
    )
    return node


def test_node_that_is_not_ready_does_not_count() -> None:
    with pytest.raises(BlockedError, match=r"not counted: n \(not ready\)"):
        choose([gpu_node_of(ready="Unknown")], num_nodes=1, gpus_per_node=8)


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    "tolerations",
    [
        [Toleration(operator="Exists")],
        [Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
        [Toleration(key="nvidia.com/gpu", value="present")],
    ],
)
def test_taint_that_the_job_tolerates_is_no_obstacle(tolerations: list[Toleration]) -> None:
    soft = {"key": "busy", "effect": "PreferNoSchedule"}
    node = gpu_node_of([GPU_TAINT, soft])
    assert choose([node], num_nodes=1, gpus_per_node=8, tolerations=tolerations).product == "A100"


@pytest.mark.parametrize(
    "tolerations",
    [
        [],
        [Toleration(key="nvidia.com/gpu", value="other")],
        [Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoExecute")],
    ],
)
def test_taint_that_keeps_a_node_out_is_named(tolerations: list[Toleration]) -> None:
    with pytest.raises(BlockedError, match=r"n \(taint nvidia.com/gpu=present:NoSchedule\)"):
        choose([gpu_node_of([GPU_TAINT])], num_nodes=1, gpus_per_node=8, tolerations=tolerations)


@pytest.mark.parametrize("allocatable", [{}, {"nvidia.com/gpu": "0"}])
def test_node_without_gpus_counts_for_jobs_on_cpu_alone(allocatable: dict[str, str]) -> None:
    ready = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
    found = read_nodes([{"metadata": {"name": "n"}, "status": ready}], None)
    assert with_gpus(found) == ()
    assert choose(found, num_nodes=1, gpus_per_node=0).nodes == found
    with pytest.raises(BlockedError, match="the cluster has no GPU"):
        choose(found, num_nodes=1, gpus_per_node=1)


WHEN = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    ("expressions", "chosen"),
    [
        ([{"operator": "In", "values": ["A100", "V100"]}], "A100"),
        ([{"operator": "NotIn", "values": ["H100"]}], "A100"),
        ([{"operator": "In", "values": ["A100", "V100"]}, {"operator": "NotIn", "values": ["A100"]}], "V100"),
        ([{"operator": "Exists"}], "H100"),
        ([{"key": "nvidia.com/gpu.compute.major", "operator": "Lt", "values": ["8"]}], "V100"),
        ([{"key": "nvidia.com/gpu.compute.major", "operator": "Gt", "values": ["7"]}], "H100"),
        ([{"key": "no-such-label", "operator": "DoesNotExist"}], "H100"),
    ],
)
def test_nodes_that_the_pods_affinity_rules_out_do_not_count(expressions: list[Any], chosen: str) -> None:
    keyed = [{"key": "nvidia.com/gpu.product", **one} for one in expressions]
    affinity = NodeAffinity.model_validate(
        {WHEN: {"nodeSelectorTerms": [{"matchExpressions": keyed}]}}, by_alias=True
    )
    cluster = [*V100, *A100, *H100]
    assert choose(cluster, num_nodes=2, gpus_per_node=8, affinity=affinity).product == chosen


def test_affinity_that_no_node_meets_is_refused_with_what_to_change() -> None:
    affinity = NodeAffinity.model_validate(
        {WHEN: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}},
        by_alias=True,
    )
    with pytest.raises(BlockedError, match="affinity select have no GPU"):
        choose(H100, num_nodes=1, gpus_per_node=8, affinity=affinity)


@pytest.mark.parametrize(
    ("operator", "names", "is_pool_meant"),
    [("In", ["a100-1"], False), ("NotIn", ["a100-0", "a100-2", "a100-3"], True)],
)
def test_node_is_asked_for_by_its_name_which_no_node_to_come_has(
    operator: str, names: list[str], is_pool_meant: bool
) -> None:
    called = {"key": "metadata.name", "operator": operator, "values": ["a100-1"]}
    affinity = NodeAffinity.model_validate(
        {WHEN: {"nodeSelectorTerms": [{"matchFields": [called]}]}}, by_alias=True
    )
    cluster = [replace(node, name=node.name.lower()) for node in A100]
    found = choose(cluster, num_nodes=1, gpus_per_node=8, affinity=affinity)
    assert [node.name for node in found.nodes] == names
    pool = Pool(
        name="p", product="A100", gpus_per_node=8, cpu="9", memory="9Gi", max_nodes=9, labels={"pool": "p"}
    )
    wish = Wish(num_nodes=5, gpus_per_node=8, affinity=affinity)
    with pytest.raises(BlockedError, match="no such GPUs") if not is_pool_meant else nullcontext():
        assert candidates(cluster, wish, [pool])[0].pool == "p"


def test_a_pool_that_is_named_by_a_kind_is_not_taken_for_gpus_of_more_memory() -> None:
    large = Node(name="large", labels={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, num_gpus=8)
    pool = Pool(
        name="p", product="A100", gpus_per_node=8, cpu="9", memory="9Gi", max_nodes=9, labels={"pool": "p"}
    )
    asked = Wish(num_nodes=2, gpus_per_node=8, products=("A100-80GB",))
    with pytest.raises(BlockedError, match="A100-80GB"):
        candidates([large], asked, [pool])
    small = pool.model_copy(update={"product": "A100-40GB"})
    found = candidates([large], replace(asked, num_nodes=1, products=("A100",)), [small])
    assert [one.product for one in found] == ["NVIDIA-A100-SXM4-80GB", "A100-40GB"]
