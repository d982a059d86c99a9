"""Which GPUs a job may get: products of which there are enough for the whole gang, the best first.

Pure: nodes come in as data. A gang runs on one product, so that no rank waits for a slower one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from phitune_operator import names
from phitune_operator.blocked import BlockedError
from phitune_operator.cluster_settings import Pool
from phitune_operator.fields import quantity
from phitune_operator.gpu_labels import driver_of
from phitune_operator.gpu_names import is_meant, is_same, is_whole, known_gpu, preference
from phitune_operator.nodes import Node, hosts, with_gpus
from phitune_operator.wish import Wish, can_take
from phitune_trainer.memory import Gpu

MAX_NAMED = 5
"""Nodes that a message names."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a gang can run on."""

    product: str = ""
    """Empty on CPU, and where the GPUs have no product label."""
    compute_capability: tuple[int, int] | None = None
    gpu_memory: int | None = None
    """Bytes of one GPU, the least of the nodes that fit; None on CPU, and where nothing says so."""
    resource: str = names.GPU_RESOURCE
    """What pods ask for."""
    selectors: tuple[str, ...] = ()
    """Selectors of labels, of which a node must match one."""
    driver: int | None = None
    """Major version of the oldest NVIDIA driver there; None if nothing tells it."""
    pool: str = ""
    """Name of the pool that has to grow first, or empty."""
    nodes: tuple[Node, ...] = ()
    """Those that count."""

    @property
    def gpu(self) -> Gpu:
        """What is known of the GPU."""
        return Gpu(self.product or "the GPU", self.gpu_memory, self.compute_capability)


def candidates(nodes: Iterable[Node], wish: Wish, pools: Sequence[Pool] = ()) -> list[Placement]:
    """What the gang can run on, the best first: what is free now, what a pool adds, what others hold.

    Raises BlockedError (NoSuchGPU, or NodeTooSmall for a job on CPU), with what the cluster has and which
    nodes do not count and why, if there is nothing; UnsuitableGPU where slices or shares of a GPU would have
    to work together.
    """
    if wish.gpus_per_node == 0:
        return [_on_cpu(hosts(nodes), wish, pools)]
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    kept_out: list[str] = []
    for node in with_gpus(nodes):
        if not wish.wants(node.labels, name=node.name):
            continue
        if obstacle := node.obstacle(wish.tolerations):
            kept_out.append(f"{node.name} ({obstacle})")
        else:
            groups[node.product, node.resource].append(node)
    offered = [pool for pool in pools if pool.gpus_per_node and wish.wants(pool.labels, name="")]
    for pool in offered:
        if not any(is_same(pool.product, product) for product, _ in groups):
            groups[pool.product, names.GPU_RESOURCE] = []
    found = list(_found(groups, wish, offered))
    if not found:
        raise BlockedError("NoSuchGPU", _refusal(groups, wish, kept_out))
    if wish.gpus_per_node > 1 and (parts := [one for one in found if not is_whole(one.product)]):
        found = [one for one in found if is_whole(one.product)]
        if not found:
            raise BlockedError("UnsuitableGPU", _no_parts(parts[0]))
    return found


def _on_cpu(nodes: Sequence[Node], wish: Wish, pools: Sequence[Pool]) -> Placement:
    """All nodes that will do. Where none are known, none are missed."""
    will_do = [node for node in nodes if can_take(node, wish, resource="", selectors=())]
    for pool in pools:
        will_do += _nodes_of(pool) if wish.wants(pool.labels, name="") else []
    if nodes and not will_do:
        wanted = [node for node in nodes if wish.wants(node.labels, name=node.name)]
        kept_out = [f"{node.name} ({node.obstacle(wish.tolerations)})" for node in wanted]
        selected = f", of which nodeSelector and affinity select {len(wanted)}" if wish.is_selective else ""
        raise BlockedError(
            "NodeTooSmall",
            f"spec.resources: no pod of the job can start on any of the {len(nodes)} node(s){selected}"
            f"{_not_counted(kept_out)}. Change spec.resources or spec.podTemplate, or add nodes",
        )
    return Placement(nodes=tuple(will_do))


def _found(
    groups: Mapping[tuple[str, str], list[Node]], wish: Wish, pools: Sequence[Pool]
) -> Iterator[Placement]:
    waiting = []
    growing = []
    for product, resource in _order(groups, wish):
        group = groups[product, resource]
        fitting = [node for node in group if node.num_gpus >= wish.gpus_per_node]
        free = [node for node in fitting if node.num_free(gpus=wish.gpus_per_node)]
        if len(free) >= wish.num_nodes:
            yield _placement(product, resource, fitting, free=free)
            continue
        pool = next((pool for pool in pools if makes_up(pool, product, group, wish, len(free))), None)
        if pool is not None:
            growing.append(_placement(product, resource, fitting, free=free, pool=pool))
        if len(fitting) >= wish.num_nodes:
            waiting.append(_placement(product, resource, fitting, free=free))
    yield from growing
    yield from waiting


def _order(groups: Mapping[tuple[str, str], list[Node]], wish: Wish) -> list[tuple[str, str]]:
    """The products that may be taken, the best first. What is not whole is only taken by its own name."""

    def preferred(kind: tuple[str, str]) -> tuple[tuple[int, int, int], int, str]:
        group = groups[kind]
        capability = group[0].labelled.gpu.compute_capability if group else None
        return preference(kind[0], capability), -len(group), kind[0]

    ordered = sorted(groups, key=preferred)
    if not wish.products:
        return [kind for kind in ordered if is_whole(kind[0])]
    asked = [kind for name in wish.products for kind in ordered if is_meant(name, kind[0])]
    return list(dict.fromkeys(asked))


def makes_up(
    pool: Pool,
    product: str,
    group: Iterable[Node],
    wish: Wish,
    free: int,
    *,
    cpu: Decimal = Decimal(0),
    memory: int = 0,
) -> bool:
    """Whether what the pool may still get, with what is free, is enough for pods that ask for so much.

    `free`: pods that would find a place now. `group`: the nodes of which some may be the pool's.
    """
    if not is_same(pool.product, product):
        return False
    there = sum(pool.labels.items() <= node.labels.items() for node in group)
    each = _node_of(pool).num_free(gpus=wish.gpus_per_node, cpu=cpu, memory=memory)
    return free + max(0, pool.max_nodes - there) * each >= wish.num_nodes


def _placement(
    product: str,
    resource: str,
    nodes: Sequence[Node],
    *,
    free: Sequence[Node],
    pool: Pool | None = None,
) -> Placement:
    known = known_gpu(product) or Gpu(product)
    gpus = [node.labelled.gpu for node in nodes] or [known]
    selectors = {node.labelled.selector: None for node in nodes}
    if pool is not None:
        selectors[selector_of(pool)] = None
    drivers = [driver for node in nodes if (driver := driver_of(node.labels)) is not None]
    capability = next((gpu.compute_capability for gpu in gpus if gpu.compute_capability), None)
    return Placement(
        product=product,
        compute_capability=capability,
        gpu_memory=min((gpu.memory for gpu in gpus if gpu.memory), default=None),
        resource=resource,
        selectors=tuple(selectors),
        driver=min(drivers, default=None),
        pool=pool.name if pool is not None else "",
        nodes=tuple(nodes) if pool is None else (*free, *_nodes_of(pool)),
    )


def selector_of(pool: Pool) -> str:
    """Selector of the labels that the pool's nodes have."""
    return ",".join(f"{key}={value}" for key, value in sorted(pool.labels.items()))


def _nodes_of(pool: Pool) -> list[Node]:
    """The nodes that a pool may add, as far as a pod's size is concerned."""
    return [_node_of(pool)] * pool.max_nodes


def _node_of(pool: Pool) -> Node:
    return Node(
        name=pool.name,
        labels=pool.labels,
        num_gpus=pool.gpus_per_node,
        cpu=quantity(pool.cpu),
        memory=int(quantity(pool.memory)),
    )


def reason_for(product: str, wish: Wish, *, pool: str) -> str:
    """Why a job runs there, in words that stay true: which nodes are free changes by the minute."""
    if wish.gpus_per_node == 0:
        why = "CPU, because gpusPerNode is 0"
    else:
        first = "first of spec.resources.gpuProducts that fits" if wish.products else "fastest GPUs that fit"
        why = f"{product or 'GPUs without a product label'}: {first}, those that are free before others"
    return f"{why}; pool {pool} grows for it" if pool else why


def _no_parts(part: Placement) -> str:
    return (
        f"spec.resources.gpusPerNode: {part.product} is a part of a GPU, and parts of one GPU cannot train "
        "together: NCCL does not connect them. Use gpusPerNode: 1, with more nodes if one is too few, or "
        "name whole GPUs in spec.resources.gpuProducts"
    )


def _refusal(groups: Mapping[tuple[str, str], Sequence[Node]], wish: Wish, kept_out: Sequence[str]) -> str:
    asked = f"{wish.num_nodes} node(s) with {wish.gpus_per_node} GPU(s) each"
    if wish.products:
        asked += f" of {' or '.join(wish.products)}"
    have = [
        f"{len(group)} node(s) with {max(node.num_gpus for node in group)}x {product or 'unlabelled GPU'}"
        for (product, _), group in sorted(groups.items())
        if group
    ]
    where = "nodes that nodeSelector and affinity select have" if wish.is_selective else "cluster has"
    others = _not_counted(kept_out)
    parts = sorted({product for product, _ in groups if not is_whole(product)})
    if parts and not wish.products:
        others += (
            f". Parts of GPUs are taken by name alone: spec.resources.gpuProducts: [{parts[0]}] "
            "with gpusPerNode: 1"
        )
    return (
        f"no such GPUs: spec.resources asks for {asked}; the {where} {', '.join(have) or 'no GPU'}{others}. "
        "Change spec.resources (gpuProducts, gpusPerNode, nodes), or add nodes; gpusPerNode: 0 trains on CPU"
    )


def _not_counted(kept_out: Sequence[str]) -> str:
    """Nodes that would do but for what keeps pods away, each with that; nothing if there are none."""
    others = f"; not counted: {', '.join(sorted(kept_out)[:MAX_NAMED])}" if kept_out else ""
    if len(kept_out) > MAX_NAMED:
        others += f" and {len(kept_out) - MAX_NAMED} more"
    if any("taint" in node for node in kept_out):
        others += " (spec.resources.tolerations lets pods onto nodes with taints)"
    return others
