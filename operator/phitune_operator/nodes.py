"""Nodes as jobs see them: what they have for pods, what pods hold of it, and what keeps pods away.

Pure: nodes and pods come in as the API server has them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from phitune_operator import names
from phitune_operator.api import Toleration
from phitune_operator.fields import quantity
from phitune_operator.gpu_labels import Labelled, is_gpu_resource, read_labels
from phitune_operator.kinds import Object, labels_of, name_of
from phitune_operator.usage import Usage, is_device, usage_of

KEEPS_OUT: Final = frozenset({"NoSchedule", "NoExecute"})
"""Effects of the taints that keep a pod away which does not tolerate them."""
MOST_PODS: Final = 1024
"""Pods of the largest gang: what a node that tells nothing has room for."""


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
    """A node, as far as one kind of its GPUs is concerned, if it has any."""

    name: str
    labels: Mapping[str, str]
    num_gpus: int
    """GPUs that pods can ask for, free or not."""
    resource: str = names.GPU_RESOURCE
    """What pods ask for to get them; empty where there are none."""
    cpu: Decimal | None = None
    """CPUs that pods can ask for, free or not; None if the node does not tell."""
    memory: int | None = None
    """The same of memory, in bytes."""
    pods: int | None = None
    """The most that may run there; None if the node does not tell."""
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

    def num_free(
        self,
        *,
        gpus: int = 0,
        cpu: Decimal = Decimal(0),
        memory: int = 0,
        devices: Mapping[str, int] | None = None,
    ) -> int:
        """Pods of one gang that would find so much there now, each: on GPUs no more than one.

        What the node does not tell is not doubted.
        """
        used = self.usage or Usage()
        if gpus and self.num_gpus - used.devices[self.resource] < gpus:
            return 0
        asked: list[tuple[Decimal | int | None, Decimal | int, Decimal | int]] = [
            (self.cpu, used.cpu, cpu),
            (self.memory, used.memory, memory),
            (self.pods, used.pods, 1),
        ]
        if self.devices is not None:
            has = self.devices
            asked += [(has.get(name, 0), used.devices[name], each) for name, each in (devices or {}).items()]
        room = min(
            (int((total - held) // each) for total, held, each in asked if total is not None and each > 0),
            default=MOST_PODS,
        )
        return max(0, min(room, 1) if gpus else room)

    def has(self, resource: str, number: int) -> bool:
        """Whether device plugins give so much out there, free or not."""
        return self.devices is None or self.devices.get(resource, 0) >= number

    def obstacle(self, tolerations: Sequence[Toleration]) -> str:
        """Why no pod with these tolerations can start there; empty if nothing is in the way."""
        if not self.is_schedulable:
            return "cordoned"
        if not self.is_ready:
            return "not ready"
        unwelcome = [
            str(taint) for taint in self.taints if not any(taint.is_tolerated(given) for given in tolerations)
        ]
        return f"taint {', '.join(unwelcome)}" if unwelcome else ""


def read_nodes(nodes: Iterable[Object], pods: Iterable[Object] | None) -> tuple[Node, ...]:
    """Read nodes, and what pods hold of them, as the API server has them.

    A node that has GPUs by several resources is there once for each. `pods`: those of the whole cluster; None
    if they could not be read.
    """
    usage = None if pods is None else usage_of(pods)
    return tuple(found for node in nodes for found in _read(node, usage))


def with_gpus(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Those that have GPUs."""
    return tuple(node for node in nodes if node.num_gpus)


def hosts(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """All of them, each once."""
    return tuple({node.name: node for node in nodes}.values())


def _read(node: Object, usage: Mapping[str, Usage] | None) -> Iterator[Node]:
    held = None if usage is None else usage.get(name_of(node), Usage())
    gpus = {
        resource: int(number)
        for resource, number in sorted(_allocatable(node).items())
        if is_gpu_resource(resource) and str(number).isdecimal() and int(number) > 0
    }
    for resource, number in (gpus or {"": 0}).items():
        yield _node(node, resource, number, held)


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
        pods=int(quantity(allocatable["pods"])) if "pods" in allocatable else None,
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
