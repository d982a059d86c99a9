"""Whether every pod of a gang would find a node now: a gang is made whole, or not yet. Pure."""

from phitune_operator import names
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.cluster_settings import Pool
from phitune_operator.fields import quantity
from phitune_operator.observed import Observed
from phitune_operator.placement import Wish, can_take, makes_up
from phitune_operator.policies.zone import near_volume
from phitune_operator.render.subject import Subject
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


def leaves_it_to_others(spec: FineTuneJobSpec) -> bool:
    """Whether somebody else makes room: a queue, a scheduler that knows gangs, or one that may preempt."""
    scheduler = spec.pod_template.scheduler_name if spec.pod_template else None
    return bool(spec.queue_name or spec.resources.priority_class_name or scheduler)


def why_not_now(seen: Observed, subject: Subject) -> str:
    """Why not every pod would find a node now; empty if each would, or if that is not for us to say."""
    free = num_free(seen, subject)
    if free is None or free >= subject.num_nodes:
        return ""
    memory = int(quantity(subject.memory))
    return (
        f"{free} of {subject.num_nodes} nodes have {subject.gpus_per_node} GPU(s) of the kind chosen, "
        f"{subject.cpu} CPUs and {gib(memory)} GiB free now; pods are made when all of them have. Nodes that "
        "an autoscaler adds are counted if the chart's value pools names them"
    )


def pool_for(seen: Observed, subject: Subject, *, product: str) -> Pool | None:
    """The pool that would grow for the gang, if too few nodes are free now; None if there is none.

    Nodes that were free when the job was placed may be gone: an autoscaler takes away what idles.
    """
    free = num_free(seen, subject)
    if free is None or free >= subject.num_nodes:
        return None
    wish = wish_of(seen.spec)
    nodes = [node for node in seen.nodes or () if node.resource == subject.gpu_resource]
    return next(
        (
            pool
            for pool in seen.settings.pools
            if subject.gpu_resource == names.GPU_RESOURCE
            and wish.wants(pool.labels)
            and quantity(pool.cpu) >= quantity(subject.cpu)
            and quantity(pool.memory) >= quantity(subject.memory)
            and makes_up(pool, product, nodes, wish, free)
        ),
        None,
    )


def num_free(seen: Observed, subject: Subject) -> int | None:
    """Nodes on which a pod of the gang would start now; None if that is not for us to say."""
    if subject.gpus_per_node == 0 or seen.nodes is None or leaves_it_to_others(seen.spec):
        return None
    wish, cpu, memory = wish_of(seen.spec), quantity(subject.cpu), int(quantity(subject.memory))
    devices = subject.profile.resources if subject.profile is not None else {}
    return sum(
        can_take(node, wish, resource=subject.gpu_resource, selectors=subject.selectors)
        and node.has_free(gpus=subject.gpus_per_node, cpu=cpu, memory=memory, devices=devices)
        for node in near_volume(seen.nodes, seen.claim)
    )
