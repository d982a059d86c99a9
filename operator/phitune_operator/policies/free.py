"""Whether every pod of a gang would find a node now: a gang is made whole, or not yet. Pure."""

from collections.abc import Sequence

from phitune_operator import names
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.cluster_settings import Pool
from phitune_operator.fields import quantity
from phitune_operator.nodes import Node, hosts
from phitune_operator.observed import Observed, Settings
from phitune_operator.placement import makes_up
from phitune_operator.policies.zone import near_volume
from phitune_operator.render.subject import Subject
from phitune_operator.wish import Wish, can_take
from phitune_trainer.memory import gib


def wish_of(spec: FineTuneJobSpec) -> Wish:
    """What a job asks of the nodes that its gang runs on."""
    resources = spec.resources
    return Wish(
        num_nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        products=resources.gpu_products or (),
        node_selector=resources.node_selector,
        affinity=spec.node_affinity,
        tolerations=spec.tolerations,
    )


def is_placed_whole(spec: FineTuneJobSpec, settings: Settings) -> bool:
    """Whether the cluster's own scheduler finds nodes for all pods of a gang, or for none."""
    return settings.gang_scheduling and not (spec.pod_template and spec.pod_template.scheduler_name)


def leaves_it_to_others(spec: FineTuneJobSpec) -> bool:
    """Whether somebody else makes room: a queue, a scheduler that knows gangs, or one that may preempt."""
    scheduler = spec.pod_template.scheduler_name if spec.pod_template else None
    return bool(spec.queue_name or spec.resources.priority_class_name or scheduler)


def why_not_now(seen: Observed, subject: Subject) -> str:
    """Why not every pod would find a node now; empty if each would, or if that is not for us to say."""
    num_pods = subject.num_nodes
    if subject.gpus_per_node == 0 and num_pods == 1:
        return ""  # there is no half of it, and no other kind of node to choose: the scheduler has the queue
    free = num_free(seen, subject)
    if subject.has_pod_group or free is None or free >= num_pods:
        return ""
    each = f"{subject.cpu} CPUs and {gib(int(quantity(subject.memory)))} GiB"
    is_there = (
        f"{free} of {num_pods} nodes have {subject.gpus_per_node} GPU(s) of the kind chosen, {each} free "
        "now; pods are made when all of them have"
        if subject.gpus_per_node
        else f"nodes have room for {free} of {num_pods} pods of {each} now; they are made when all fit"
    )
    return f"{is_there}. Nodes that an autoscaler adds are counted if the chart's value pools names them"


def pool_for(seen: Observed, subject: Subject, *, product: str) -> Pool | None:
    """The pool that would grow for the gang, if too few nodes are free now; None if there is none.

    Nodes that were free when the job was placed may be gone: an autoscaler takes away what idles.
    """
    free = num_free(seen, subject) if seen.settings.pools else None
    if free is None or free >= subject.num_nodes:
        return None
    wish, nodes = wish_of(seen.spec), _of_the_kind(seen.nodes or (), subject)
    cpu, memory = quantity(subject.cpu), int(quantity(subject.memory))
    return next(
        (
            pool
            for pool in seen.settings.pools
            if subject.gpu_resource == names.GPU_RESOURCE
            and wish.wants(pool.labels, name="")
            and makes_up(
                pool, product if subject.gpus_per_node else "", nodes, wish, free, cpu=cpu, memory=memory
            )
        ),
        None,
    )


def num_free(seen: Observed, subject: Subject) -> int | None:
    """Pods of the gang that would find a node now; None if that is not for us to say.

    With GPUs each has a node of its own; on CPU several may share one.
    """
    if seen.nodes is None or leaves_it_to_others(seen.spec):
        return None
    wish, cpu, memory = wish_of(seen.spec), quantity(subject.cpu), int(quantity(subject.memory))
    devices = subject.profile.resources if subject.profile is not None else {}
    return sum(
        node.num_free(gpus=subject.gpus_per_node, cpu=cpu, memory=memory, devices=devices)
        for node in _of_the_kind(near_volume(seen.nodes, seen.claim), subject)
        if can_take(node, wish, resource=subject.gpu_resource, selectors=subject.selectors)
    )


def _of_the_kind(nodes: Sequence[Node], subject: Subject) -> Sequence[Node]:
    """Those with the GPUs of the job, or all of them, each once, for a job on CPU."""
    if subject.gpus_per_node == 0:
        return hosts(nodes)
    return [node for node in nodes if node.resource == subject.gpu_resource]
