"""Which GPUs a job may get: products of which there are enough for the whole gang, the best first.

Pure: nodes come in as data. A gang runs on one product, so that no rank waits for a slower one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from phitune_operator import names
from phitune_operator.api import NodeAffinity, Toleration
from phitune_operator.blocked import BlockedError
from phitune_operator.cluster_settings import Pool
from phitune_operator.fields import quantity
from phitune_operator.gpu_labels import Labelled, driver_of, is_gpu_resource, read_labels
from phitune_operator.gpu_names import is_meant, is_whole, known_gpu, preference
from phitune_operator.kinds import Object, labels_of, name_of
from phitune_operator.usage import Usage, is_device, usage_of
from phitune_trainer.memory import Gpu

MAX_NAMED = 5
"""Nodes that a message names."""
KEEPS_OUT = frozenset({"NoSchedule", "NoExecute"})
"""Effects of the taints that keep a pod away which does not tolerate them."""


@dataclass(frozen=True, kw_only=True)
class Taint:
    """What keeps pods off a node."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"

    def is_tolerated(self, toleration: Toleration) -> bool:
        """Whether this toleration lets a pod onto the node in spite of the taint."""
        if toleration.effect not in (None, self.effect) or toleration.key not in (None, self.key):
            return False
        return toleration.operator == "Exists" or (toleration.value or "") == self.value


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node with GPUs, as far as one of its resources is concerned."""

    name: str
    labels: Mapping[str, str]
    num_gpus: int
    """GPUs that pods can ask for, free or not."""
    resource: str = names.GPU_RESOURCE
    """What pods ask for."""
    cpu: Decimal | None = None
    """CPUs that pods can ask for, free or not; None if the node does not tell."""
    memory: int | None = None
    """The same of memory, in bytes."""
    devices: Mapping[str, int] | None = None
    """What else device plugins give out there, by resource; None if that is not known."""
    usage: Usage | None = None
    """What pods hold of it; None if that could not be read, and then nothing is held."""
    is_schedulable: bool = True
    is_ready: bool = True
    taints: tuple[Taint, ...] = ()
    """Those that keep pods out."""

    @cached_property
    def labelled(self) -> Labelled:
        """What the labels say of the GPUs."""
        return read_labels(self.labels, self.resource)

    @property
    def product(self) -> str:
        """Name of the GPUs; empty if nothing labelled the node."""
        return self.labelled.gpu.name

    def has_free(
        self,
        *,
        gpus: int,
        cpu: Decimal = Decimal(0),
        memory: int = 0,
        devices: Mapping[str, int] | None = None,
    ) -> bool:
        """Whether a pod that asks for so much would find it there now."""
        used = self.usage or Usage()
        return (
            self.num_gpus - used.devices[self.resource] >= gpus
            and all(self.has(name, used.devices[name] + number) for name, number in (devices or {}).items())
            and (self.cpu is None or self.cpu - used.cpu >= cpu)
            and (self.memory is None or self.memory - used.memory >= memory)
        )

    def has(self, resource: str, number: int) -> bool:
        """Whether device plugins give so much out there, free or not."""
        return self.devices is None or self.devices.get(resource, 0) >= number


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a gang can run on, and why, in words."""

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
    reason: str

    @property
    def gpu(self) -> Gpu:
        """What is known of the GPU."""
        return Gpu(self.product or "the GPU", self.gpu_memory, self.compute_capability)


def gpu_nodes(nodes: Iterable[Object], pods: Iterable[Object] | None) -> tuple[Node, ...]:
    """Read nodes, and what pods hold of them, as the API server has them; those without GPUs are left out.

    `pods`: those of the whole cluster; None if they could not be read.
    """
    usage = None if pods is None else usage_of(pods)
    return tuple(found for node in nodes for found in _read(node, usage))


def hosts(nodes: Iterable[Object]) -> tuple[Node, ...]:
    """Read nodes as jobs on CPU see them, whether they have GPUs or not."""
    return tuple(_node(node, "", 0, None) for node in nodes)


def _read(node: Object, usage: Mapping[str, Usage] | None) -> Iterator[Node]:
    """The node, once for each resource by which it has GPUs."""
    held = None if usage is None else usage.get(name_of(node), Usage())
    for resource, number in sorted(_allocatable(node).items()):
        if is_gpu_resource(resource) and str(number).isdecimal() and int(number) > 0:
            yield _node(node, resource, int(number), held)


def _node(node: Object, resource: str, num_gpus: int, usage: Usage | None) -> Node:
    status, spec, allocatable = node.get("status") or {}, node.get("spec") or {}, _allocatable(node)
    taints = [
        Taint(key=taint["key"], value=taint.get("value") or "", effect=taint["effect"])
        for taint in spec.get("taints") or []
        if taint.get("effect") in KEEPS_OUT
    ]
    return Node(
        name=name_of(node),
        labels=labels_of(node),
        num_gpus=num_gpus,
        resource=resource,
        cpu=quantity(allocatable["cpu"]) if "cpu" in allocatable else None,
        memory=int(quantity(allocatable["memory"])) if "memory" in allocatable else None,
        devices={name: int(quantity(number)) for name, number in allocatable.items() if is_device(name)},
        usage=usage,
        is_schedulable=not spec.get("unschedulable", False),
        is_ready=any(
            item.get("type") == "Ready" and item.get("status") == "True"
            for item in status.get("conditions") or []
        ),
        taints=tuple(taints),
    )


def _allocatable(node: Object) -> Mapping[str, Any]:
    return (node.get("status") or {}).get("allocatable") or {}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a job asks of the nodes that its gang runs on."""

    num_nodes: int
    gpus_per_node: int
    products: Sequence[str] = ()
    """Those allowed, best first; empty: any whole GPU, the fastest first."""
    node_selector: Mapping[str, str] | None = None
    affinity: NodeAffinity | None = None
    tolerations: Sequence[Toleration] = ()
    """Taints that the pods put up with; a node with another one, or that is not ready, does not count."""

    @property
    def is_selective(self) -> bool:
        """Whether labels bound the choice."""
        return bool(self.node_selector) or self.affinity is not None

    def wants(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels will do."""
        return (self.node_selector or {}).items() <= labels.items() and _is_wanted(labels, self.affinity)


def candidates(nodes: Iterable[Node], wish: Wish, pools: Sequence[Pool] = ()) -> list[Placement]:
    """What the gang can run on, the best first: what is free now, what a pool adds, what others hold.

    Raises BlockedError (NoSuchGPU), with what the cluster has and which nodes do not count and why, if there
    is nothing; UnsuitableGPU where slices or shares of a GPU would have to work together.
    """
    if wish.gpus_per_node == 0:
        will_do = [
            node for node in nodes if wish.wants(node.labels) and not _obstacle(node, wish.tolerations)
        ]
        for pool in pools:
            will_do += _nodes_of(pool) if wish.wants(pool.labels) else []
        return [Placement(nodes=tuple(will_do), reason="CPU, because gpusPerNode is 0")]
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    kept_out: list[str] = []
    for node in nodes:
        if not wish.wants(node.labels):
            continue
        if obstacle := _obstacle(node, wish.tolerations):
            kept_out.append(f"{node.name} ({obstacle})")
        else:
            groups[node.product, node.resource].append(node)
    offered = [pool for pool in pools if pool.gpus_per_node and wish.wants(pool.labels)]
    for pool in offered:
        if not any(is_meant(pool.product, product) for product, _ in groups):
            groups[pool.product, names.GPU_RESOURCE] = []
    found = list(_found(groups, wish, offered))
    if not found:
        raise BlockedError("NoSuchGPU", _refusal(groups, wish, kept_out))
    if wish.gpus_per_node > 1 and (parts := [one for one in found if not is_whole(one.product)]):
        found = [one for one in found if is_whole(one.product)]
        if not found:
            raise BlockedError("UnsuitableGPU", _no_parts(parts[0]))
    return found


def _found(
    groups: Mapping[tuple[str, str], list[Node]], wish: Wish, pools: Sequence[Pool]
) -> Iterator[Placement]:
    waiting = []
    growing = []
    for product, resource in _order(groups, wish):
        group = groups[product, resource]
        fitting = [node for node in group if node.num_gpus >= wish.gpus_per_node]
        free = [node for node in fitting if node.has_free(gpus=wish.gpus_per_node)]
        if len(free) >= wish.num_nodes:
            yield _placement(product, resource, fitting, wish, free=free)
            continue
        pool = next((pool for pool in pools if makes_up(pool, product, group, wish, len(free))), None)
        if pool is not None:
            growing.append(_placement(product, resource, fitting, wish, free=free, pool=pool))
        if len(fitting) >= wish.num_nodes:
            waiting.append(_placement(product, resource, fitting, wish, free=free))
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


def makes_up(pool: Pool, product: str, group: Sequence[Node], wish: Wish, free: int) -> bool:
    """Whether the nodes that the pool may still get, with those that are free, are enough."""
    if not is_meant(pool.product, product) or pool.gpus_per_node < wish.gpus_per_node:
        return False
    there = sum(pool.labels.items() <= node.labels.items() for node in group)
    return free + max(0, pool.max_nodes - there) >= wish.num_nodes


def _placement(
    product: str,
    resource: str,
    nodes: Sequence[Node],
    wish: Wish,
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
        reason=_reason(product, wish, len(nodes), len(free), pool),
    )


def selector_of(pool: Pool) -> str:
    """Selector of the labels that the pool's nodes have."""
    return ",".join(f"{key}={value}" for key, value in sorted(pool.labels.items()))


def _nodes_of(pool: Pool) -> list[Node]:
    """The nodes that a pool may add, as far as a pod's size is concerned."""
    size = Node(
        name=pool.name,
        labels=pool.labels,
        num_gpus=pool.gpus_per_node,
        cpu=quantity(pool.cpu),
        memory=int(quantity(pool.memory)),
    )
    return [size] * pool.max_nodes


def _is_wanted(labels: Mapping[str, str], affinity: NodeAffinity | None) -> bool:
    """Whether a node meets what is required of it, as the scheduler will judge it.

    What cannot be judged here (fields of nodes, operators that compare numbers) is taken to be met.
    """
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or any(
        all(_meets(labels, one) for one in term.match_expressions or [])
        for term in required.node_selector_terms
    )


def _meets(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    value, values = labels.get(str(expression.get("key"))), expression.get("values")
    match expression.get("operator"):
        case "In" if isinstance(values, list):
            return value in values
        case "NotIn" if isinstance(values, list):
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return True


def matches(labels: Mapping[str, str], selectors: Sequence[str]) -> bool:
    """Whether a node with these labels matches one of a placement's selectors."""
    return not selectors or any(
        all(
            term[1:] not in labels if term.startswith("!") else labels.get(key) == value
            for term in selector.split(",")
            for key, _, value in [term.partition("=")]
        )
        for selector in selectors
    )


def _obstacle(node: Node, tolerations: Sequence[Toleration]) -> str:
    """Why no pod of the job can start on the node; empty if nothing is in the way."""
    if not node.is_schedulable:
        return "cordoned"
    if not node.is_ready:
        return "not ready"
    unwelcome = [
        str(taint) for taint in node.taints if not any(taint.is_tolerated(given) for given in tolerations)
    ]
    return f"taint {', '.join(unwelcome)}" if unwelcome else ""


def can_take(node: Node, wish: Wish, *, resource: str, selectors: Sequence[str]) -> bool:
    """Whether a node is one of those that were chosen, and open to the job's pods."""
    return (
        node.resource == resource
        and node.num_gpus >= wish.gpus_per_node
        and matches(node.labels, selectors)
        and wish.wants(node.labels)
        and not _obstacle(node, wish.tolerations)
    )


def _reason(product: str, wish: Wish, num_nodes: int, free: int, pool: Pool | None) -> str:
    what = product or "GPUs without a product label"
    why = "first of spec.resources.gpuProducts that fits" if wish.products else "fastest GPUs that fit"
    count = f"{num_nodes} node(s) with at least {wish.gpus_per_node}"
    if pool is not None:
        return f"{what}: {why} ({count}, {free} of them free, and pool {pool.name} grows to {pool.max_nodes})"
    return f"{what}: {why} ({count}{'' if free >= wish.num_nodes else f', {free} of them free now'})"


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
    others = f"; not counted: {', '.join(sorted(kept_out)[:MAX_NAMED])}" if kept_out else ""
    if len(kept_out) > MAX_NAMED:
        others += f" and {len(kept_out) - MAX_NAMED} more"
    if any("taint" in node for node in kept_out):
        others += " (spec.resources.tolerations lets pods onto nodes with taints)"
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
