"""What is decided about a job before anything is made for it: whether it can go on, and what it runs with.

Pure. Until the first attempt has its number nothing is decided for good: each look decides anew. From then on
it is read back from status and the ConfigMap: an operator upgrade does not change what a restart runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from phitune_operator import names
from phitune_operator.backends import backend_of
from phitune_operator.blocked import BlockedError, BrokenConfigError
from phitune_operator.builds import BUILDS, Build
from phitune_operator.cluster_settings import profile_for
from phitune_operator.defaults import Offer, Resolved, cpu_request, memory_limit, resolve
from phitune_operator.fields import quantity
from phitune_operator.gpu_labels import MIB
from phitune_operator.kinds import labels_of
from phitune_operator.nodes import hosts, with_gpus
from phitune_operator.observed import Observed
from phitune_operator.placement import Placement, candidates, reason_for
from phitune_operator.policies import claim, host, queue, room
from phitune_operator.policies.free import is_placed_whole, leaves_it_to_others, wish_of
from phitune_operator.policies.host import Share
from phitune_operator.policies.zone import near_volume, zones_for
from phitune_operator.render.config_map import config_in
from phitune_operator.render.subject import Subject
from phitune_operator.suitable import check_memory, first_that_will_do, version
from phitune_operator.wish import can_take
from phitune_trainer.config import ConfigError, TrainConfig
from phitune_trainer.memory import Gpu, gib
from phitune_trainer.problems import problems_of
from phitune_trainer.yaml_reader import YamlError


def check(seen: Observed) -> None:
    """Raise the first BlockedError that keeps the job from starting pods."""
    if seen.spec.queue_name is not None:
        queue.check(seen.spec.queue_name, seen.queues)
    storage, num_nodes = seen.spec.storage, seen.spec.resources.nodes
    if storage.claim_name is not None:
        claim.check_named(seen.claim, name=storage.claim_name, num_nodes=num_nodes)
    elif seen.claim is not None:
        claim.check_own(seen.claim, key=seen.key, num_nodes=num_nodes, size=storage.size)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a job runs on, and with what."""

    placement: Placement
    train: TrainConfig
    image: str
    default_image: str | None
    """What runs where the job names no image; None where the operator has none for the GPU."""
    build: str
    """Of the trainer; empty where the operator did not choose one."""
    share: Share
    notes: Sequence[str] = ()
    estimated: str | None = None
    """Peak of each GPU's memory; None where that is not known."""
    fits: bool = True
    """Whether that is below what can be used of it."""


def subject_of(seen: Observed) -> tuple[Subject, dict[str, Any]]:
    """Return the job with what is decided for it, and the same as `status.placement`.

    Raises BlockedError if no node has the GPUs, they cannot do what is asked or the config cannot be made,
    and BrokenConfigError if the config that was made can no longer be read.
    """
    known: dict[str, Any] = seen.status.get("placement") or {}
    decision = _read_back(seen, known) if "image" in known and is_pinned(seen) else _first_that_will_do(seen)
    placement, train = decision.placement, decision.train
    profile = profile_for(placement.product, seen.settings.network_profiles)
    # Pods on CPU are bound to no nodes, and so to no zone.
    zones = zones_for(placement.nodes, num_nodes=train.world.nodes, claim=seen.claim)
    subject = Subject(
        namespace=seen.key.namespace,
        name=seen.key.name,
        uid=seen.uid,
        spec=seen.spec,
        train=train,
        image=decision.image,
        cpu=decision.share.cpu,
        memory=decision.share.memory,
        selectors=placement.selectors,
        zones=zones if placement.selectors else (),
        gpu_resource=placement.resource,
        profile=profile,
        hub=seen.settings.hub,
        network=seen.settings.network,
        backend=backend_of(seen.status, seen.settings.backend),
        workload_priority=labels_of(seen.raw).get(names.LABEL_WORKLOAD_PRIORITY, ""),
        has_pod_group=is_placed_whole(seen.spec, seen.settings),
    )
    capability = placement.compute_capability
    notable = {
        "product": placement.product or ("CPU" if seen.spec.resources.gpus_per_node == 0 else None),
        "nodeLabels": list(placement.selectors) or None,
        "resource": placement.resource if placement.resource != names.GPU_RESOURCE else None,
        "pool": placement.pool or None,
        "networkProfile": profile.product if profile else None,
        "computeCapability": version(capability) if capability else None,
        "image": decision.image,
        "defaultImage": decision.default_image if seen.spec.image else None,
        "backend": subject.backend,
        "build": decision.build or None,
        "attention": train.training.attention,
        "precision": train.training.precision,
        "globalBatchSize": train.training.global_batch_size,
        "microBatchSize": train.training.micro_batch_size,
        "gradientCheckpointing": train.training.gradient_checkpointing,
        "cpu": decision.share.cpu,
        "memory": decision.share.memory,
        "estimatedMemory": decision.estimated,
        "availableMemory": f"{placement.gpu_memory // MIB}Mi" if placement.gpu_memory else None,
        "reason": _reason(seen, decision),
        "notes": list(decision.notes) or None,
    }
    return subject, {name: value for name, value in notable.items() if value is not None}


def is_pinned(seen: Observed) -> bool:
    """Whether it is decided for good what the job runs on, and with what."""
    return seen.attempt > 0 or seen.config_map is not None


def _first_that_will_do(seen: Observed) -> Decision:
    return first_that_will_do(
        _candidates(seen), lambda placement: _decide(seen, placement), fits=lambda decision: decision.fits
    )


def _candidates(seen: Observed) -> list[Placement]:
    of_the_kind = with_gpus if seen.spec.resources.gpus_per_node else hosts
    everywhere = of_the_kind(seen.nodes or ())
    nodes = of_the_kind(near_volume(seen.nodes or (), seen.claim))
    try:
        return candidates(nodes, wish_of(seen.spec), seen.settings.pools)
    except BlockedError as problem:
        if seen.spec.resources.gpus_per_node == 0 and leaves_it_to_others(seen.spec):
            return [Placement()]
        if len(nodes) == len(everywhere):
            raise
        elsewhere = (
            f"{len(everywhere) - len(nodes)} node(s) outside the zone of the job's volume do not count"
        )
        raise BlockedError(problem.reason, f"{problem.message}; {elsewhere}") from problem


def _decide(seen: Observed, placement: Placement) -> Decision:
    images = seen.settings.trainer_images
    builds = [build for build in BUILDS if build.name in images]
    offer = Offer(builds=builds, driver=placement.driver) if images else None
    resolved = _resolved(seen, placement.gpu, offer)
    train, build = resolved.train, resolved.build
    check_memory(train, resolved.memory, placement.gpu)
    share = host.share_of(seen.spec, train, placement)
    profile = profile_for(placement.product, seen.settings.network_profiles)
    host.check_devices(placement.nodes, seen.spec.resources.nodes, profile)
    room.check(train, seen.spec.storage, seen.claim)
    is_for_all = offer is None or placement.compute_capability is None
    default_image = images[build.name] if build else seen.settings.trainer_image if is_for_all else None
    return Decision(
        placement=placement,
        train=_pinned(seen.config_map) if seen.config_map is not None else train,
        image=seen.spec.image or default_image or seen.settings.trainer_image,
        default_image=default_image,
        build=build.name if build and seen.spec.image is None else "",
        share=share,
        notes=resolved.notes,
        estimated=f"{gib(resolved.memory.estimate.total)}Gi" if resolved.memory else None,
        fits=resolved.memory is None or resolved.memory.fits,
    )


def _reason(seen: Observed, decision: Decision) -> str:
    """Why the job runs there, in words that hold for as long as it does: edits of the spec change them."""
    placement, share = decision.placement, decision.share
    why = reason_for(placement.product, wish_of(seen.spec), pool=placement.pool)
    if seen.spec.resources.gpus_per_node == 0:
        return why
    build = next((one for one in BUILDS if one.name == decision.build and seen.spec.image is None), None)
    image = f"; image of build {build.name}, for {_needs(build)}" if build else ""
    return f"{why}{image}; {share.cpu} CPUs and {share.memory} of memory a pod"


def _needs(build: Build) -> str:
    flash = "bf16 with flash attention, " if "flash" in build.attention else ""
    return (
        f"{flash}compute capability {version(min(build.architectures))} and up, driver {build.driver} and up"
    )


def _read_back(seen: Observed, known: dict[str, Any]) -> Decision:
    """What was decided before. The config, if it was not made yet, comes out as it did then."""
    major, _, minor = str(known.get("computeCapability", "")).partition(".")
    product, memory = str(known.get("product", "")), known.get("availableMemory")
    # An operator that knew no other labels wrote down the product alone.
    labelled = [f"{names.LABEL_GPU_PRODUCT}={product}"] if product not in ("", "CPU") else []
    placement = Placement(
        product="" if product == "CPU" else product,
        compute_capability=(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
        gpu_memory=int(quantity(memory)) if memory else None,
        resource=str(known.get("resource", names.GPU_RESOURCE)),
        selectors=tuple(known.get("nodeLabels") or labelled),
        pool=str(known.get("pool", "")),
    )
    build, default_image = str(known.get("build", "")), known.get("defaultImage")
    if default_image is None and known["image"] != seen.spec.image:
        default_image = known["image"]
    notes = known.get("notes") or ()
    if seen.config_map is not None:
        train = _pinned(seen.config_map)
    else:
        offer = Offer(builds=[one for one in BUILDS if one.name == build], driver=None) if build else None
        train = _resolved(seen, placement.gpu, offer).train
    resources = seen.spec.resources
    wish = wish_of(seen.spec)
    nodes = (
        node
        for node in seen.nodes or ()
        if can_take(node, wish, resource=placement.resource, selectors=placement.selectors)
    )
    return Decision(
        placement=replace(placement, nodes=tuple(nodes)),
        train=train,
        image=seen.spec.image or str(default_image or known["image"]),
        default_image=default_image,
        build=build,
        share=Share(
            cpu=resources.cpu or str(known.get("cpu") or cpu_request(seen.spec)),
            memory=resources.memory or str(known.get("memory") or memory_limit(seen.spec, train)),
        ),
        notes=notes,
        estimated=known.get("estimatedMemory"),
    )


def _resolved(seen: Observed, gpu: Gpu, offer: Offer | None) -> Resolved:
    try:
        return resolve(seen.readable, namespace=seen.key.namespace, uid=seen.uid, gpu=gpu, offer=offer)
    except ValidationError as error:
        raise BlockedError("InvalidSpec", "; ".join(problems_of(error))) from error


def _pinned(config_map: dict[str, Any]) -> TrainConfig:
    try:
        return config_in(config_map)
    except (ConfigError, YamlError) as error:
        where = f"ConfigMap {config_map['metadata']['name']}, {names.CONFIG_KEY}"
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        raise BrokenConfigError(
            f"{where} was changed by hand, or made under other rules, and is no config here: "
            f"{'; '.join(problems)}. "
            "Delete the job and apply it again; its checkpoints stay on the volume"
        ) from error
