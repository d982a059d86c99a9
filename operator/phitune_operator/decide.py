"""What is decided about a job before anything is made for it: whether it can go on, and what it runs with.

Pure. Decisions are taken once, at the first start, and read back from status and the ConfigMap ever after: an
operator upgrade does not change what a restart runs.
"""

from typing import Any

from pydantic import ValidationError

from phitune_operator import names
from phitune_operator.blocked import BlockedError, BrokenConfigError
from phitune_operator.defaults import resolve
from phitune_operator.fields import quantity
from phitune_operator.observed import Observed
from phitune_operator.placement import MIB, Placement, choose
from phitune_operator.policies import claim, room
from phitune_operator.render.subject import Subject
from phitune_operator.suitable import check_memory
from phitune_operator.validate import not_implemented
from phitune_trainer.config import ConfigError, TrainConfig, parse_config
from phitune_trainer.memory import Gpu, gib
from phitune_trainer.problems import problems_of
from phitune_trainer.yaml_reader import YamlError, read_document


def check(seen: Observed) -> None:
    """Raise the first BlockedError that keeps the job from starting pods."""
    if missing := not_implemented(seen.readable):
        raise BlockedError(
            "NotImplemented",
            f"this version does not implement {', '.join(missing)}; change or remove what asks for it",
        )
    storage, num_nodes = seen.spec.storage, seen.spec.resources.nodes
    if storage.claim_name is not None:
        claim.check_named(seen.claim, name=storage.claim_name, num_nodes=num_nodes)
    elif seen.claim is not None:
        claim.check_own(seen.claim, key=seen.key, num_nodes=num_nodes, size=storage.size)


def subject_of(seen: Observed) -> tuple[Subject, dict[str, Any]]:
    """Return the job with what is decided for it, and the same as `status.placement`.

    Raises BlockedError if no node has the GPUs, they cannot do what is asked or the config cannot be made,
    and BrokenConfigError if the config that was made can no longer be read.
    """
    known: dict[str, Any] = seen.status.get("placement") or {}
    placement = _placement(seen, known)
    train, notes, estimated = _train_config(seen, placement)
    image = seen.spec.image or known.get("image") or seen.settings.trainer_image
    subject = Subject(
        namespace=seen.key.namespace,
        name=seen.key.name,
        uid=seen.uid,
        spec=seen.spec,
        train=train,
        image=image,
        product=placement.product,
        hub=seen.settings.hub,
    )
    capability = placement.compute_capability
    said = {
        "product": placement.product or ("CPU" if seen.spec.resources.gpus_per_node == 0 else None),
        "computeCapability": f"{capability[0]}.{capability[1]}" if capability else None,
        "image": image,
        "attention": train.training.attention,
        "precision": train.training.precision,
        "globalBatchSize": train.training.global_batch_size,
        "microBatchSize": train.training.micro_batch_size,
        "gradientCheckpointing": train.training.gradient_checkpointing,
        "estimatedMemory": estimated or known.get("estimatedMemory"),
        "availableMemory": f"{placement.gpu_memory // MIB}Mi" if placement.gpu_memory else None,
        "reason": placement.reason,
        "notes": notes or known.get("notes"),
    }
    return subject, {name: value for name, value in said.items() if value is not None}


def _placement(seen: Observed, known: dict[str, Any]) -> Placement:
    if "image" in known:
        major, _, minor = str(known.get("computeCapability", "")).partition(".")
        product = str(known.get("product", ""))
        memory = known.get("availableMemory")
        return Placement(
            product="" if product == "CPU" else product,
            compute_capability=(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
            gpu_memory=int(quantity(memory)) if memory else None,
            reason=str(known.get("reason", "")),
        )
    resources = seen.spec.resources
    return choose(
        seen.nodes or (),
        num_nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        products=resources.gpu_products or (),
        node_selector=resources.node_selector,
        affinity=seen.spec.node_affinity,
        tolerations=seen.spec.tolerations,
    )


def _train_config(seen: Observed, placement: Placement) -> tuple[TrainConfig, list[str], str | None]:
    """The config of the first attempt, where there is one; else a fresh one, with notes and memory."""
    if seen.config_map is not None:
        return _pinned(seen.config_map), [], None
    gpu = Gpu(placement.product or "the GPU", placement.gpu_memory, placement.compute_capability)
    try:
        resolved = resolve(seen.readable, namespace=seen.key.namespace, uid=seen.uid, gpu=gpu)
    except ValidationError as error:
        raise BlockedError("InvalidSpec", "; ".join(problems_of(error))) from error
    check_memory(resolved.train, resolved.memory, gpu)
    room.check(resolved.train, seen.spec.storage, seen.claim)
    estimated = f"{gib(resolved.memory.estimate.total)}Gi" if resolved.memory else None
    return resolved.train, resolved.notes, estimated


def _pinned(config_map: dict[str, Any]) -> TrainConfig:
    text = str((config_map.get("data") or {}).get(names.CONFIG_KEY, ""))
    where = f"ConfigMap {config_map['metadata']['name']}, {names.CONFIG_KEY}"
    try:
        return parse_config(read_document(text), where)
    except (ConfigError, YamlError) as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        raise BrokenConfigError(
            f"{where} was changed by hand and is no config any more: {'; '.join(problems)}. "
            "Delete the job and apply it again; its checkpoints stay on the volume"
        ) from error
