"""What pods hold of nodes: the requests of those that have a node and have not ended. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from phitune_operator import names
from phitune_operator.fields import quantity
from phitune_operator.kinds import Object, labels_of

ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of pods that hold nothing any more."""


@dataclass
class Usage:
    """Requests on one node."""

    cpu: Decimal = Decimal(0)
    memory: int = 0
    """Bytes."""
    pods: int = 0
    devices: Counter[str] = field(default_factory=Counter)
    """GPUs, and what else device plugins give out, by resource."""
    gangs: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Pods of our gangs that are counted here, by the uid of their job and their attempt."""

    def plus(self, requests: Mapping[str, Decimal], *, num_pods: int) -> "Usage":
        """The same with so many more pods, which ask for so much together."""
        more = Usage(
            cpu=self.cpu,
            memory=self.memory,
            pods=self.pods,
            devices=Counter(self.devices),
            gangs=Counter(self.gangs),
        )
        more.add(requests, num_pods=num_pods)
        return more

    def add(self, requests: Mapping[str, Decimal], *, num_pods: int = 1) -> None:
        """Count pods, which ask for so much together."""
        self.pods += num_pods
        self.cpu += requests.get("cpu", Decimal(0))
        self.memory += int(requests.get("memory", 0))
        for resource, number in requests.items():
            if is_device(resource):
                self.devices[resource] += int(number)


def is_device(resource: str) -> bool:
    """Whether it is a device plugin that gives the resource out, in whole numbers."""
    return "/" in resource


def usage_of(pods: Iterable[Object]) -> dict[str, Usage]:
    """What pods hold, by node."""
    usage: dict[str, Usage] = {}
    count(usage, pods)
    return usage


def count(usage: dict[str, Usage], pods: Iterable[Object]) -> None:
    """Add what pods hold to what others hold, by node.

    Those of a negative priority only keep a place warm: the scheduler clears them away for any other pod.
    """
    for pod in pods:
        spec = pod.get("spec") or {}
        node, has_ended = spec.get("nodeName"), (pod.get("status") or {}).get("phase") in ENDED
        if node and not has_ended and (spec.get("priority") or 0) >= 0:
            held = usage.setdefault(node, Usage())
            held.add(_requests(spec))
            labels = labels_of(pod)
            if (attempt := labels.get(names.LABEL_ATTEMPT, "")).isdecimal():
                held.gangs[labels.get(names.LABEL_JOB_UID, ""), int(attempt)] += 1


def _requests(spec: Object) -> dict[str, Decimal]:
    """Of a pod, as the scheduler counts them: all containers at once, or the largest that runs before them.

    An init container that always restarts stays beside the others.
    """
    beside, before = defaultdict[str, Decimal](Decimal), defaultdict[str, Decimal](Decimal)
    for container in spec.get("initContainers") or []:
        asked = _of_container(container)
        stays = container.get("restartPolicy") == "Always"
        for resource, number in asked.items():
            before[resource] = max(before[resource], beside[resource] + number)
            beside[resource] += number if stays else 0
    for container in spec.get("containers") or []:
        for resource, number in _of_container(container).items():
            beside[resource] += number
    overhead = {name: quantity(value) for name, value in (spec.get("overhead") or {}).items()}
    return {
        name: max(beside[name], before[name]) + overhead.get(name, Decimal(0))
        for name in {*beside, *before, *overhead}
    }


def _of_container(container: Object) -> dict[str, Decimal]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return {name: quantity(value) for name, value in requests.items()}
