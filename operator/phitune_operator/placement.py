"""Which GPUs a job gets: one product for the whole gang, from what the cluster's own labels say.

Pure: nodes come in as data. The labels are those of GPU feature discovery.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phitune_operator import names
from phitune_operator.api import NodeAffinity, Toleration
from phitune_operator.blocked import BlockedError
from phitune_operator.kinds import Object, labels_of, name_of
from phitune_trainer.memory import Gpu, find_gpu

LABEL_MAJOR = "nvidia.com/gpu.compute.major"
LABEL_MINOR = "nvidia.com/gpu.compute.minor"
LABEL_MEMORY = "nvidia.com/gpu.memory"
"""Of one GPU, or of one slice where GPUs are partitioned, in MiB."""
MIB = 2**20

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
    """A node with GPUs."""

    name: str
    labels: Mapping[str, str]
    num_gpus: int
    """GPUs that pods can ask for, free or not."""
    is_schedulable: bool = True
    is_ready: bool = True
    taints: tuple[Taint, ...] = ()
    """Those that keep pods out."""

    @property
    def product(self) -> str:
        """Value of `nvidia.com/gpu.product`; empty if nothing labelled the node."""
        return self.labels.get(names.LABEL_GPU_PRODUCT, "")

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Major and minor, such as (9, 0); None if nothing labelled the node."""
        major, minor = self.labels.get(LABEL_MAJOR, ""), self.labels.get(LABEL_MINOR, "")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None

    @property
    def gpu_memory(self) -> int | None:
        """Bytes of one GPU; None if nothing labelled the node."""
        text = self.labels.get(LABEL_MEMORY, "")
        return int(text) * MIB if text.isdecimal() else None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What the gang runs on, and why, in words."""

    product: str = ""
    """Empty on CPU, and where the GPUs have no product label."""
    compute_capability: tuple[int, int] | None = None
    gpu_memory: int | None = None
    """Bytes of one GPU, the least of the nodes that fit; None on CPU, and where nothing says so."""
    reason: str


def gpu_node(node: Object) -> Node | None:
    """Read a node as the API server holds it; None if it has no GPU."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    text = str(allocatable.get(names.GPU_RESOURCE, "0"))
    if not text.isdecimal() or int(text) == 0:
        return None
    spec = node.get("spec") or {}
    conditions = (node.get("status") or {}).get("conditions") or []
    taints = [
        Taint(key=taint["key"], value=taint.get("value") or "", effect=taint["effect"])
        for taint in spec.get("taints") or []
        if taint.get("effect") in KEEPS_OUT
    ]
    return Node(
        name=name_of(node),
        labels=labels_of(node),
        num_gpus=int(text),
        is_schedulable=not spec.get("unschedulable", False),
        is_ready=any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions),
        taints=tuple(taints),
    )


def choose(
    nodes: Iterable[Node],
    *,
    num_nodes: int,
    gpus_per_node: int,
    products: Sequence[str] = (),
    node_selector: Mapping[str, str] | None = None,
    affinity: NodeAffinity | None = None,
    tolerations: Sequence[Toleration] = (),
) -> Placement:
    """Choose the product that the gang runs on.

    `products`: those allowed, best first; empty: any, the newest architecture first. `tolerations`: the
    taints that the pods put up with; a node with another one, or that is not ready, does not count.
    Raises BlockedError (NoSuchGPU), with what the cluster has and which nodes do not count and why, if no
    product has that many such nodes.
    """
    if gpus_per_node == 0:
        return Placement(reason="CPU, because gpusPerNode is 0")
    wanted = node_selector or {}
    is_selected = bool(wanted) or affinity is not None
    groups: dict[str, list[Node]] = defaultdict(list)
    kept_out: list[str] = []
    for node in nodes:
        if not wanted.items() <= node.labels.items() or not _is_wanted(node, affinity):
            continue
        if obstacle := _obstacle(node, tolerations):
            kept_out.append(f"{node.name} ({obstacle})")
        else:
            groups[node.product].append(node)
    order = list(products) or sorted(groups, key=lambda product: _preference(groups[product]))
    for product in order:
        fitting = [node for node in groups.get(product, []) if node.num_gpus >= gpus_per_node]
        if len(fitting) >= num_nodes:
            known = find_gpu(product) or Gpu(product)
            return Placement(
                product=product,
                compute_capability=fitting[0].compute_capability or known.compute_capability,
                gpu_memory=_least_memory(fitting) or known.memory,
                reason=_reason(product, products, len(fitting), gpus_per_node),
            )
    raise BlockedError(
        "NoSuchGPU", _refusal(groups, num_nodes, gpus_per_node, products, is_selected, kept_out)
    )


def _is_wanted(node: Node, affinity: NodeAffinity | None) -> bool:
    """Whether the node meets what is required of it, as the scheduler will judge it.

    What cannot be judged here (fields of nodes, operators that compare numbers) is taken to be met.
    """
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or any(
        all(_meets(node, one) for one in term.match_expressions or [])
        for term in required.node_selector_terms
    )


def _meets(node: Node, expression: Mapping[str, Any]) -> bool:
    value, values = node.labels.get(str(expression.get("key"))), expression.get("values")
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


def _least_memory(nodes: Sequence[Node]) -> int | None:
    """Bytes of the smallest GPU that a node's labels tell of."""
    return min((node.gpu_memory for node in nodes if node.gpu_memory), default=None)


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


def _preference(group: Sequence[Node]) -> tuple[int, int, int, str]:
    major, minor = group[0].compute_capability or (0, 0)
    return (-major, -minor, -len(group), group[0].product)


def _reason(product: str, products: Sequence[str], num_nodes: int, gpus_per_node: int) -> str:
    what = product or "GPUs without a product label"
    why = "first of spec.resources.gpuProducts that fits" if products else "newest GPUs that fit"
    return f"{what}: {why} ({num_nodes} node(s) with at least {gpus_per_node})"


def _refusal(
    groups: Mapping[str, Sequence[Node]],
    num_nodes: int,
    gpus_per_node: int,
    products: Sequence[str],
    selected: bool,
    kept_out: Sequence[str],
) -> str:
    asked = f"{num_nodes} node(s) with {gpus_per_node} GPU(s) each"
    if products:
        asked += f" of {' or '.join(products)}"
    have = [
        f"{len(group)} node(s) with {max(node.num_gpus for node in group)}x {product or 'unlabelled GPU'}"
        for product, group in sorted(groups.items())
    ]
    where = "nodes that nodeSelector and affinity select have" if selected else "cluster has"
    others = f"; not counted: {', '.join(sorted(kept_out)[:MAX_NAMED])}" if kept_out else ""
    if len(kept_out) > MAX_NAMED:
        others += f" and {len(kept_out) - MAX_NAMED} more"
    if any("taint" in node for node in kept_out):
        others += " (spec.resources.tolerations lets pods onto nodes with taints)"
    return (
        f"no such GPUs: spec.resources asks for {asked}; the {where} {', '.join(have) or 'no GPU'}{others}. "
        "Change spec.resources (gpuProducts, gpusPerNode, nodes), or add nodes; gpusPerNode: 0 trains on CPU"
    )
