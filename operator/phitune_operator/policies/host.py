"""What each pod asks of its node beside GPUs: CPU and memory, such as enough nodes have. Pure.

What a job leaves open is the usual amount or, where nodes have less, the share of a node that goes with its
GPUs. What it asks for is never made smaller: where nodes lack it, the numbers and what would fit are said.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from phitune_operator.api import FineTuneJobSpec
from phitune_operator.blocked import BlockedError
from phitune_operator.cluster_settings import NetworkProfile
from phitune_operator.defaults import cpu_request, memory_limit, shared_memory
from phitune_operator.fields import quantity
from phitune_operator.nodes import Node
from phitune_operator.placement import Placement
from phitune_operator.policies.free import leaves_it_to_others
from phitune_trainer.config import TrainConfig
from phitune_trainer.memory import GIB, gib, host_bytes, setup_of

USABLE: Final = Decimal("0.9")
"""Of what a node has for pods, where the operator chooses: its other pods, such as daemons, need some too."""
MOST_NODES: Final = 64
"""Of those that a remedy proposes."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one pod asks of a node."""

    cpu: str
    memory: str
    """Request and limit, shared memory and an optimizer on the host included."""


def share_of(spec: FineTuneJobSpec, train: TrainConfig, placement: Placement) -> Share:
    """CPU and memory of each pod. Raises BlockedError (NodeTooSmall) with numbers and what would fit.

    A node that does not tell what it has is not doubted.
    """
    gpus, num_nodes = spec.resources.gpus_per_node, spec.resources.nodes
    usual = Share(cpu=cpu_request(spec), memory=memory_limit(spec, train))
    told = [node for node in placement.nodes if node.cpu is not None and node.memory is not None]
    if gpus == 0:
        if told and not leaves_it_to_others(spec):
            _check_on_cpu(spec, train, usual, told)
        return usual
    if len(told) < num_nodes:
        return usual
    share = Share(
        cpu=spec.resources.cpu or _cpu(usual.cpu, told, gpus, num_nodes),
        memory=spec.resources.memory or _memory(usual.memory, told, gpus, num_nodes),
    )
    if problems := list(_problems(spec, train, share, told)):
        raise BlockedError("NodeTooSmall", "; ".join(problems))
    return share


def check_devices(nodes: Sequence[Node], num_nodes: int, profile: NetworkProfile | None) -> None:
    """Raise BlockedError (NodeTooSmall) where too few nodes have what the network profile's pods ask for."""
    if profile is None:
        return
    for resource, number in sorted(profile.resources.items()):
        have = sum(node.has(resource, number) for node in nodes)
        if have < num_nodes:
            raise BlockedError(
                "NodeTooSmall",
                f"the chart's value networkProfiles has each pod on {profile.product} ask for {resource}: "
                f"{number}, and {have} of {len(nodes)} node(s) have that, where {num_nodes} must; let the "
                "cluster's administrator see whether the device plugin runs on them, or correct the profile",
            )


def _check_on_cpu(spec: FineTuneJobSpec, train: TrainConfig, share: Share, nodes: Sequence[Node]) -> None:
    """Raise BlockedError (NodeTooSmall) where the nodes, each with several pods, can never hold all."""
    num_pods = spec.resources.nodes
    room = _num_on_cpu(nodes, share, num_pods)
    if room >= num_pods:
        return
    cpu, memory = max(node.cpu or Decimal(0) for node in nodes), max(node.memory or 0 for node in nodes)
    smaller = Share(cpu=f"{int(cpu * USABLE * 1000)}m", memory=f"{int(memory * USABLE) // 2**20}Mi")
    fitting = Share(
        cpu=share.cpu if quantity(share.cpu) <= quantity(smaller.cpu) else smaller.cpu,
        memory=share.memory if quantity(share.memory) <= quantity(smaller.memory) else smaller.memory,
    )
    ways = [
        f"{field}: {value}"
        for field, value, before in (
            ("spec.resources.cpu", fitting.cpu, share.cpu),
            ("spec.resources.memory", fitting.memory, share.memory),
        )
        if value != before
    ]
    fits = (
        ways
        and _num_on_cpu(nodes, fitting, num_pods) >= num_pods
        and not is_too_little(spec, train, fitting.memory)
    )
    remedy = f"{' and '.join(ways)} would fit" if fits else "more or larger nodes are needed, or fewer pods"
    raise BlockedError(
        "NodeTooSmall",
        f"spec.resources: the {len(nodes)} node(s) that the job may use have room for {room} of {num_pods} "
        f"pod(s) of {share.cpu} CPUs and {gib(int(quantity(share.memory)))} GiB, even where nothing else "
        f"runs; the largest have {cpu.normalize():f} CPUs and {gib(memory)} GiB; {remedy}",
    )


def _num_on_cpu(nodes: Sequence[Node], share: Share, enough: int) -> int:
    """How many such pods the nodes could run if nothing else ran there; counted until they are enough."""
    cpu, memory = quantity(share.cpu), int(quantity(share.memory))
    room = 0
    for node in nodes:
        if room >= enough:
            break
        room += replace(node, usage=None).num_free(cpu=cpu, memory=memory)
    return room


def _cpu(usual: str, nodes: Sequence[Node], gpus: int, num_nodes: int) -> str:
    share = _that_enough_have(
        nodes, num_nodes, lambda node: (node.cpu or Decimal(0)) * gpus / node.num_gpus * USABLE
    )
    return usual if quantity(usual) <= share else f"{int(share * 1000)}m"


def _memory(usual: str, nodes: Sequence[Node], gpus: int, num_nodes: int) -> str:
    share = _that_enough_have(
        nodes, num_nodes, lambda node: (node.memory or 0) * Decimal(gpus) / node.num_gpus * USABLE
    )
    return usual if quantity(usual) <= share else f"{int(share) // 2**20}Mi"


def _that_enough_have(nodes: Sequence[Node], num_nodes: int, of: Callable[[Node], Decimal]) -> Decimal:
    """The most that so many of the nodes have."""
    return sorted(map(of, nodes), reverse=True)[num_nodes - 1]


def _problems(
    spec: FineTuneJobSpec, train: TrainConfig, share: Share, nodes: Sequence[Node]
) -> Iterator[str]:
    num_nodes = spec.resources.nodes
    if not has_cpu(nodes, num_nodes, share.cpu):
        most = _that_enough_have(nodes, num_nodes, lambda node: node.cpu or Decimal(0))
        yield (
            f"spec.resources.cpu: each of {num_nodes} pod(s) asks for {share.cpu} CPUs, and so many of the "
            f"nodes have {most.normalize():f}; {_cpu_remedy(most)}"
        )
    if not has_memory(nodes, num_nodes, share.memory):
        most = _that_enough_have(nodes, num_nodes, lambda node: Decimal(node.memory or 0))
        yield (
            f"spec.resources.memory: each of {num_nodes} pod(s) asks for {gib(int(quantity(share.memory)))} "
            f"GiB, and so many of the nodes have {gib(int(most))}; {_memory_remedies(spec, train, most)}"
        )
    elif is_too_little(spec, train, share.memory):
        yield _too_little(spec, train, share, nodes)


def has_cpu(nodes: Sequence[Node], num_nodes: int, cpu: str) -> bool:
    """Whether so many nodes have so many CPUs for pods."""
    return sum((node.cpu or 0) >= quantity(cpu) for node in nodes) >= num_nodes


def has_memory(nodes: Sequence[Node], num_nodes: int, memory: str) -> bool:
    """Whether so many nodes have so much memory for pods."""
    return sum((node.memory or 0) >= quantity(memory) for node in nodes) >= num_nodes


def least_memory(spec: FineTuneJobSpec, train: TrainConfig) -> int:
    """Bytes below which a pod cannot work: its shared memory and the optimizers of its ranks on the host."""
    return int(quantity(shared_memory(spec))) + train.world.processes_per_node * host_bytes(setup_of(train))


def is_too_little(spec: FineTuneJobSpec, train: TrainConfig, memory: str) -> bool:
    """Whether a pod's memory cannot hold what is known to be in it.

    A model that lies on the volume may be smaller than the published one, and its optimizer too.
    """
    return train.model.path is None and quantity(memory) < least_memory(spec, train)


def _cpu_remedy(most: Decimal) -> str:
    return f"spec.resources.cpu: {int(most * USABLE * 1000)}m would fit"


def _memory_remedies(spec: FineTuneJobSpec, train: TrainConfig, most: Decimal) -> str:
    fitting = f"{int(most * USABLE) // GIB}Gi"
    if not is_too_little(spec, train, fitting):
        return f"spec.resources.memory: {fitting} would fit"
    return _others(spec, train, fitting)


def _too_little(spec: FineTuneJobSpec, train: TrainConfig, share: Share, nodes: Sequence[Node]) -> str:
    optimizer = train.world.processes_per_node * host_bytes(setup_of(train))
    with_optimizer = f" and {gib(optimizer)} GiB of optimizer" if optimizer else ""
    needs = f"{gib(int(quantity(shared_memory(spec))))} GiB of shared memory{with_optimizer}"
    least = f"{-(-least_memory(spec, train) // GIB)}Gi"
    enough = has_memory(nodes, spec.resources.nodes, least)
    remedy = (
        f"spec.resources.memory: {least} or more would do" if enough else _others(spec, train, share.memory)
    )
    return (
        f"spec.resources.memory: each pod has {gib(int(quantity(share.memory)))} GiB, and {needs} must fit "
        f"into it; {remedy}"
    )


def _others(spec: FineTuneJobSpec, train: TrainConfig, memory: str) -> str:
    """Changes other than the memory's, each tried by the function that refused."""
    found = []
    nodes = 2 * spec.resources.nodes
    while nodes <= MOST_NODES and is_too_little(spec, _on_nodes(train, nodes), memory):
        nodes *= 2
    if nodes <= MOST_NODES:
        found.append(f"spec.resources.nodes: {nodes}")
    small = spec.model_copy(update={"resources": spec.resources.model_copy(update={"shared_memory": "1Gi"})})
    if not is_too_little(small, train, memory):
        found.append("spec.resources.sharedMemory: 1Gi")
    if train.training.offload_optimizer and not is_too_little(spec, _without_offload(train), memory):
        found.append("spec.method: lora")
    return f"{' or '.join(found)} would fit" if found else "nodes with more memory are needed"


def _on_nodes(train: TrainConfig, nodes: int) -> TrainConfig:
    return train.model_copy(update={"world": train.world.model_copy(update={"nodes": nodes})})


def _without_offload(train: TrainConfig) -> TrainConfig:
    training = train.training.model_copy(update={"offload_optimizer": False})
    return train.model_copy(update={"training": training})
