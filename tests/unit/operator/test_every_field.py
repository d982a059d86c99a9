"""No field of the API is without effect: each has a row that names a value and where it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.affinity import WISHES
from harness.affinity import at as each
from harness.jobs import merged
from harness.operator_view import H100, PREPARED, gang, observed, pod
from phitune_operator.decide import subject_of
from phitune_operator.kinds import Object
from phitune_operator.names import LABEL_GPU_PRODUCT
from phitune_operator.nodes import Node
from phitune_operator.observed import Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.render import render_job
from phitune_operator.schema import object_schema
from phitune_trainer.yaml_reader import read_document

GPU: Object = {"resources": {"gpusPerNode": 2, "cpu": None, "memory": None}}
HUB: Object = {"task": "docvqa", "model": {"init": None}, "data": {"generate": None}}
OWN: Object = {"data": {"generate": None, "path": "data/mine"}}
LORA: Object = {"method": "lora"}
NODES = tuple(
    replace(node, labels={LABEL_GPU_PRODUCT: product, "a": "b"})
    for product in ("H100", "T4")
    for node in H100
)
AFFINITY = "podTemplate.affinity."
MASTER = "PyTorchJob.spec.pytorchReplicaSpecs.Master.template"

CHANGES: dict[str, tuple[Object, Any, str]] = {
    # field: what the job says else, the value, and a place of the objects that are made
    "model.name": (HUB, "team/model", "train.model.name"),
    "model.path": ({"model": {"init": None}}, "models/a", "train.model.path"),
    "model.revision": (merged(HUB, {"model": {"name": "team/model"}}), "v2", "train.model.revision"),
    "model.tokenSecret": (HUB, "hub", "Job.spec.template.spec.containers"),
    "model.init": ({"model": {"init": None}}, "tiny", "train.model.init"),
    "task": (OWN, "nlvr2", "train.task"),
    "data.path": (OWN, "data/a", "train.data.path"),
    "data.train": (OWN, "a.jsonl", "train.data.train"),
    "data.eval": (OWN, "b.jsonl", "train.data.eval"),
    "data.imageRoot": (OWN, "pictures", "train.data.imageRoot"),
    "data.name": (HUB, "team/copy", "train.data.name"),
    "data.revision": (merged(HUB, {"data": {"name": "team/copy"}}), "v1", "train.data.revision"),
    "data.tokenSecret": (HUB, "hub", "Job.spec.template.spec.containers"),
    "method": ({}, "lora", "train.method"),
    "freezeVision": ({}, True, "train.freezeVision"),
    "lora.rank": (LORA, 8, "train.lora.rank"),
    "lora.alpha": (LORA, 3.0, "train.lora.alpha"),
    "lora.dropout": (LORA, 0.1, "train.lora.dropout"),
    "lora.vision": (LORA, False, "train.lora.vision"),
    "training.epochs": ({"training": {"maxSteps": None, "epochs": 2}}, 7, "train.training.epochs"),
    "training.maxSteps": ({}, 9, "train.training.maxSteps"),
    "training.globalBatchSize": ({}, 32, "train.training.globalBatchSize"),
    "training.perDeviceBatchSize": ({}, 2, "train.training.microBatchSize"),
    "training.learningRate": ({}, 0.5, "train.training.learningRate"),
    "training.weightDecay": ({}, 0.5, "train.training.weightDecay"),
    "training.warmupSteps": ({}, 3, "train.training.warmupSteps"),
    "training.schedule": ({}, "cosine", "train.training.schedule"),
    "training.numCrops": ({}, 3, "train.training.numCrops"),
    "training.maxLength": ({}, 77, "train.training.maxLength"),
    "training.packing": ({}, False, "train.training.packing"),
    "training.gradientCheckpointing": ({}, "always", "train.training.gradientCheckpointing"),
    "training.offloadOptimizer": (GPU, "always", "train.training.offloadOptimizer"),
    "training.precision": ({}, "bf16", "train.training.precision"),
    "training.attention": ({}, "eager", "train.training.attention"),
    "training.seed": ({}, 1, "train.training.seed"),
    "resources.nodes": ({}, 1, "train.world.nodes"),
    "resources.gpusPerNode": (GPU, 4, f"{MASTER}.spec.containers"),
    "resources.processesPerNode": ({}, 2, "train.world.processesPerNode"),
    "resources.gpuProducts": (GPU, ["T4"], f"{MASTER}.spec.affinity"),
    "resources.cpu": ({}, "3", f"{MASTER}.spec.containers"),
    "resources.memory": ({}, "7Gi", f"{MASTER}.spec.containers"),
    "resources.sharedMemory": ({}, "99Mi", f"{MASTER}.spec.volumes"),
    "resources.nodeSelector": ({}, {"a": "b"}, f"{MASTER}.spec.nodeSelector"),
    "resources.priorityClassName": ({}, "high", f"{MASTER}.spec.priorityClassName"),
    "storage.claimName": ({"storage": {"size": None, "claimName": "a"}}, "mine", f"{MASTER}.spec.volumes"),
    "storage.size": ({}, "9Gi", "PersistentVolumeClaim.spec.resources"),
    "storage.storageClassName": ({}, "fast", "PersistentVolumeClaim.spec.storageClassName"),
    "storage.retain": ({}, False, "PersistentVolumeClaim.metadata.ownerReferences"),
    "checkpoint.everySteps": ({}, 5, "train.checkpoint.everySteps"),
    "checkpoint.everyMinutes": ({}, 5.0, "train.checkpoint.everyMinutes"),
    "checkpoint.keep": ({}, 5, "train.checkpoint.keep"),
    "evaluation.enabled": ({"evaluation": {"enabled": None}}, False, "train.evaluation.enabled"),
    "evaluation.everySteps": ({}, 5, "train.evaluation.everySteps"),
    "evaluation.maxSamples": ({}, 5, "train.evaluation.maxSamples"),
    "export.merged": ({}, True, "train.export.merged"),
    "export.adapter": (LORA, False, "train.export.adapter"),
    "image": ({}, "trainer:2", f"{MASTER}.spec.containers"),
    "podTemplate.annotations": ({}, {"a": "b"}, f"{MASTER}.metadata.annotations"),
    "podTemplate.labels": ({}, {"a": "b"}, f"{MASTER}.metadata.labels"),
    "podTemplate.schedulerName": ({}, "volcano", f"{MASTER}.spec.schedulerName"),
    "resumeFrom": ({}, "runs/a", "train.resumeFrom"),
}
LISTS: dict[str, tuple[Object, str]] = {
    # fields of the entries of a list: an entry that has them all, and the place
    "env[*]": ({"name": "A", "value": "b"}, f"{MASTER}.spec.containers"),
    "imagePullSecrets[*]": ({"name": "pull"}, f"{MASTER}.spec.imagePullSecrets"),
    **{
        f"{group}.tolerations[*]": (
            {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 9},
            f"{MASTER}.spec.tolerations",
        )
        for group in ("resources", "podTemplate")
    },
}


def left_alone(spec: Object) -> Plan:
    """What is planned for a gang that has run for an hour, with nothing amiss but rank 0's silence."""
    return plan(running(spec, (pod(0), pod(1))))


def running(spec: Object, pods: Any) -> Observed:
    status = {**PREPARED, "startTime": "2026-01-01T11:00:00Z"}
    volume = {"metadata": {"name": "digits-workspace"}}
    return observed(spec, status=status, claim=volume, gangs=(gang(),), pods=pods, nodes=H100)


def after_a_fault(spec: Object) -> str:
    phase: str = plan(running(spec, (pod(0, code=1), pod(1, code=1)))).status["phase"]
    return phase


def after_the_end(spec: Object) -> float | None:
    done = {"type": "Succeeded", "status": "True", "reason": "Completed"}
    status = {"phase": "Succeeded", "conditions": [done], "completionTime": "2026-01-01T11:59:00Z"}
    return plan(observed(spec, status=status)).look_again


POLICIES = {
    # field: a value, and how the plan differs from that of a job which does not say so
    "runPolicy.suspend": (True, lambda spec: left_alone(spec).status["phase"], "Suspended"),
    "runPolicy.activeDeadline": ("30m", lambda spec: left_alone(spec).status["phase"], "Failed"),
    "runPolicy.restartLimit": (0, after_a_fault, "Failed"),
    "runPolicy.ttlAfterFinished": ("2m", after_the_end, 60.0),
}
ELSEWHERE = {
    "data.generate": "every other row: all of them train on generated digits",
    "runPolicy.stallTimeout": "test_stall.py",
    "queueName": "test_queue.py",
}
"""Fields whose effect another file of tests shows."""


def leaves(schema: Object, path: str = "") -> Iterator[str]:
    """Every field of the spec that holds a value of its own; [*] stands for the entries of a list."""
    items = schema.get("items", {})
    if "properties" in schema:
        for name, field in schema["properties"].items():
            yield from leaves(field, f"{path}.{name}" if path else name)
    elif "properties" in items:
        yield from leaves(items, f"{path}[*]")
    else:
        yield path


def nested(path: str, value: Any) -> Object:
    for name in reversed(path.split(".")):
        value = [value] if name.endswith("[*]") and not isinstance(value, list) else value
        value = {name.removesuffix("[*]"): value}
    return dict(value)


def shown(spec: Object, nodes: Sequence[Node] = NODES) -> Object:
    """The objects that are made for a job by kind, and the config that its pods read."""
    seen = observed(spec, nodes=tuple(nodes))
    made = {obj["kind"]: obj for obj in render_job(subject_of(seen)[0])}
    return {**made, "train": read_document(made["ConfigMap"]["data"]["train.yaml"])}


def at(objects: Object, place: str) -> Any:
    value: Any = objects
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


FIELDS = sorted(leaves(object_schema()["properties"]["spec"]))
WISHED = [path for path in FIELDS if path.startswith(AFFINITY)]


def test_every_field_has_a_row() -> None:
    listed = {f"{path}.{name}" for path, (entry, _) in LISTS.items() for name in entry}
    rows = [*CHANGES, *listed, *WISHED, *POLICIES, *ELSEWHERE]
    assert sorted(rows) == FIELDS


@pytest.mark.parametrize("path", CHANGES)
def test_field_shows_in_what_is_made(path: str) -> None:
    base, value, place = CHANGES[path]
    without = {**base, "training": {"globalBatchSize": 16, **base.get("training", {})}}
    assert at(shown(merged(without, nested(path, value))), place) != at(shown(without), place)


@pytest.mark.parametrize("path", LISTS)
def test_entry_of_a_list_shows_whole_in_what_is_made(path: str) -> None:
    entry, place = LISTS[path]
    found = repr(at(shown(nested(path, entry)), place))
    for value in entry.values():
        assert repr(value) in found


@pytest.mark.parametrize("path", WISHED)
def test_wish_about_nodes_and_pods_shows_in_what_is_made(path: str) -> None:
    place = path.removeprefix(AFFINITY)
    racks = [replace(node, labels={"rack": "a", "cores": "32"}) for node in H100]
    made = at(shown({"podTemplate": {"affinity": WISHES}}, racks), f"{MASTER}.spec.affinity")
    assert each(WISHES, place) != []
    assert each(made, place) == each(WISHES, place)


@pytest.mark.parametrize("path", POLICIES)
def test_policy_shows_in_what_is_planned(path: str) -> None:
    value, outcome, expected = POLICIES[path]
    assert outcome(nested(path, value)) == expected
    assert outcome({}) != expected
