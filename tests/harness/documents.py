"""FineTuneJobs that are accepted and refused: one table for `phitune render` and for the API server.

Both must say the same of every row, so that neither lets through what the other refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.cluster import Object
from harness.jobs import finetunejob


@dataclass(frozen=True)
class Refused:
    """A document that must be refused."""

    id: str
    document: Object
    path: str
    """Full path of the field to change, as `phitune render` names it."""
    message: str
    """A part of what it says about it."""


def job(spec: Mapping[str, Any] | None = None, /, **top: Any) -> Object:
    """A small job on CPU; `spec` is laid over it (None removes), `top` replaces whole parts of the object."""
    return {**finetunejob("digits", spec), **top}


def with_null(*path: str) -> Object:
    """A job in which one field is null, which is as good as absent."""
    document = job()
    group = document
    for name in path[:-1]:
        group = group.setdefault(name, {})
    group[path[-1]] = None
    return document


def named(name: str) -> Object:
    """A job of that name."""
    return job(metadata={"name": name})


GPU = {"gpusPerNode": 8, "cpu": None, "memory": None}
LORA = {"method": "lora"}
HUGE = 10**30

ACCEPTED: dict[str, Object] = {
    "small": job(),
    "smallest": {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "docvqa"},
        "spec": {
            "task": "docvqa",
            "method": "lora",
            "resources": {"nodes": 2, "gpusPerNode": 8},
            "storage": {"size": "200Gi"},
        },
    },
    "longest name": named("a" * 40),
    "one letter": named("a"),
    "labels and annotations": job(
        metadata={"name": "a", "labels": {"team": "x", "a.b/c": ""}, "annotations": {"n": "any text, ä"}}
    ),
    "whole number for a fraction": job({"training": {"learningRate": 1}}),
    "cpu as a number": job({"resources": {"cpu": 4}}),
    "cpu as a fraction": job({"resources": {"cpu": "1.5"}}),
    "bytes with exponent": job({"resources": {"memory": "1e9"}}),
    "claim": job({"storage": {"size": None, "claimName": "team.data"}}),
    "class": job({"storage": {"storageClassName": "azurefile-premium", "retain": False}}),
    "null spec group": with_null("spec", "lora"),
    "null group with defaults": with_null("spec", "runPolicy"),
    "null field": with_null("spec", "training", "epochs"),
    "null value of a map": job({"resources": {"nodeSelector": {"a": "b"}}}),
    "every field of lora": job({**LORA, "lora": {"rank": 8, "alpha": 0.5, "dropout": 0.1, "vision": True}}),
    "qlora": job({"method": "qlora"}),
    "frozen vision with lora": job({**LORA, "freezeVision": True, "lora": {"vision": False}}),
    "adapter of lora": job({**LORA, "export": {"adapter": True}}),
    "flash": job(
        {"resources": GPU, "training": {"attention": "flash", "precision": "bf16", "globalBatchSize": 64}}
    ),
    "fp16 on a GPU": job({"resources": GPU, "training": {"precision": "fp16", "globalBatchSize": 64}}),
    "batch that divides": job(
        {
            "resources": {"nodes": 3, "processesPerNode": 2},
            "training": {"globalBatchSize": 24, "perDeviceBatchSize": 4},
        }
    ),
    "products": job(
        {"resources": {**GPU, "gpuProducts": ["NVIDIA-H100-80GB-HBM3"]}, "training": {"globalBatchSize": 64}}
    ),
    "shared memory": job({"resources": {"memory": "2Gi", "sharedMemory": "2048Mi"}}),
    "durations": job(
        {
            "runPolicy": {
                "stallTimeout": "1h30m",
                "activeDeadline": "1.5h",
                "ttlAfterFinished": "0s",
                "suspend": True,
            }
        }
    ),
    "checkpoint in minutes": job({"checkpoint": {"everyMinutes": 0.5, "keep": 10}}),
    "own data": job(
        {
            "data": {
                "generate": None,
                "path": "data/mine",
                "train": "a/b.jsonl",
                "eval": "ü.jsonl",
                "imageRoot": ".",
            }
        }
    ),
    "hub model": job(
        {"model": {"init": None, "name": "microsoft/Phi-3.5-vision-instruct", "revision": "main"}}
    ),
    "empty model": job({"model": {"init": None}}),
    "tokens for the defaults": job(
        {
            "task": "docvqa",
            "data": {"generate": None, "tokenSecret": "hub.data"},
            "model": {"init": None, "tokenSecret": "hub"},
        }
    ),
    "hub data": job(
        {
            "task": "docvqa",
            "data": {"generate": None, "name": "team/copy", "revision": "v1", "tokenSecret": "hub.data"},
            "model": {"init": None, "name": "team/model", "tokenSecret": "hub"},
        }
    ),
    "tolerations": job(
        {
            "resources": {
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"},
                    {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
                ],
                "nodeSelector": {"example.com/pool": "gpu", "zone": ""},
                "priorityClassName": "high",
            }
        }
    ),
    "image and env": job(
        {
            "image": "registry.example.com:5000/a/b:1.0@sha256:" + "0" * 64,
            "imagePullSecrets": [{"name": "pull"}],
            "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "EMPTY"}],
        }
    ),
    "pod template": job(
        {
            "podTemplate": {
                "labels": {"team": "x"},
                "annotations": {"example.com/a": "b"},
                "affinity": {"nodeAffinity": {"anything": [1, {"a": True}]}},
                "schedulerName": "volcano",
            }
        }
    ),
    "queue and resume": job({"queueName": "team-a", "resumeFrom": "runs/ns/job/0123abcd"}),
}

REFUSED: list[Refused] = [
    # the object
    Refused(
        "wrong apiVersion", job(apiVersion="phitune.dev/v1"), "apiVersion", "must be phitune.dev/v1alpha1"
    ),
    Refused("wrong kind", job(kind="FinetuneJob"), "kind", "must be FineTuneJob"),
    Refused("no spec", {k: v for k, v in job().items() if k != "spec"}, "spec", "required"),
    Refused("spec is text", job(spec="x"), "spec", "map of fields"),
    Refused("spec is empty", job(spec={}), "spec.task", "required"),
    Refused("unknown part", job(sepc={}), "sepc", "did you mean spec?"),
    # names
    Refused("name too long", named("a" * 41), "metadata.name", "at most 40"),
    Refused("name begins with a digit", named("1a"), "metadata.name", "first a letter"),
    Refused("name ends with a hyphen", named("a-"), "metadata.name", "last no hyphen"),
    Refused("name with a dot", named("a.b"), "metadata.name", "lower-case"),
    Refused("name in capitals", named("Digits"), "metadata.name", "lower-case"),
    Refused("no name", job(metadata={}), "metadata.name", "required"),
    Refused(
        "unknown metadata", job(metadata={"name": "a", "label": {}}), "metadata.label", "did you mean labels?"
    ),
    Refused(
        "malformed label", job(metadata={"name": "a", "labels": {"a": "b c"}}), "metadata.labels.a", "label"
    ),
    Refused(
        "malformed label key",
        job(metadata={"name": "a", "labels": {"a b": ""}}),
        "metadata.labels.a b",
        "key",
    ),
    Refused(
        "annotation is a number",
        job(metadata={"name": "a", "annotations": {"a": 1}}),
        "metadata.annotations.a",
        "string",
    ),
    # kinds of value
    Refused("unknown field", job({**LORA, "lora": {"rnak": 8}}), "spec.lora.rnak", "did you mean rank?"),
    Refused("unknown group", job({"trainig": {}}), "spec.trainig", "did you mean training?"),
    Refused("unknown without a hint", job({"zzz": 1}), "spec.zzz", "unknown field"),
    Refused("wrong task", job({"task": "docqva"}), "spec.task", "docvqa, nlvr2, hatefulMemes, ucf101, jsonl"),
    Refused("wrong method", job({"method": "LoRA"}), "spec.method", "full, lora, qlora"),
    Refused("null where needed", with_null("spec", "task"), "spec.task", "required"),
    Refused(
        "text for a whole number", job({"resources": {"nodes": "2"}}), "spec.resources.nodes", "whole number"
    ),
    Refused(
        "fraction for a whole number",
        job({"resources": {"nodes": 1.5}}),
        "spec.resources.nodes",
        "whole number",
    ),
    Refused(
        "boolean for a whole number",
        job({"resources": {"nodes": True}}),
        "spec.resources.nodes",
        "whole number",
    ),
    Refused("text for a boolean", job({"freezeVision": "yes"}), "spec.freezeVision", "true or false"),
    Refused(
        "text for a number",
        job({"training": {"learningRate": "4e-5"}}),
        "spec.training.learningRate",
        "number",
    ),
    Refused("number for a text", job({"image": 5}), "spec.image", "string"),
    Refused("map for a list", job({"env": {"A": "b"}}), "spec.env", "list"),
    Refused("list for a map", job(spec={**job()["spec"], "training": []}), "spec.training", "map of fields"),
    Refused("null in a list", job({"env": [None]}), "spec.env[0]", "map of fields"),
    # bounds
    Refused("rank 0", job({**LORA, "lora": {"rank": 0}}), "spec.lora.rank", "at least 1, got 0"),
    Refused(
        "rank too large", job({**LORA, "lora": {"rank": 1025}}), "spec.lora.rank", "at most 1024, got 1025"
    ),
    Refused("dropout 1", job({**LORA, "lora": {"dropout": 1}}), "spec.lora.dropout", "less than 1"),
    Refused("alpha 0", job({**LORA, "lora": {"alpha": 0}}), "spec.lora.alpha", "more than 0"),
    Refused(
        "learning rate 0", job({"training": {"learningRate": 0}}), "spec.training.learningRate", "more than 0"
    ),
    Refused(
        "negative epochs",
        job({"training": {"epochs": -1, "maxSteps": None}}),
        "spec.training.epochs",
        "at least 1",
    ),
    Refused("17 crops", job({"training": {"numCrops": 17}}), "spec.training.numCrops", "at most 16"),
    Refused("huge seed", job({"training": {"seed": HUGE}}), "spec.training.seed", "at most 2147483647"),
    Refused("no nodes", job({"resources": {"nodes": 0}}), "spec.resources.nodes", "at least 1"),
    Refused("keep nothing", job({"checkpoint": {"keep": 0}}), "spec.checkpoint.keep", "at least 1"),
    Refused(
        "negative restarts",
        job({"runPolicy": {"restartLimit": -1}}),
        "spec.runPolicy.restartLimit",
        "at least 0",
    ),
    Refused(
        "long value", job({"env": [{"name": "A", "value": "x" * 8193}]}), "spec.env[0].value", "at most 8192"
    ),
    Refused(
        "no products", job({"resources": {"gpuProducts": []}}), "spec.resources.gpuProducts", "at least 1"
    ),
    Refused(
        "too many variables",
        job({"env": [{"name": f"A{i}"} for i in range(65)]}),
        "spec.env",
        "at most 64 entries allowed, got 65",
    ),
    # forms
    Refused("malformed cpu", job({"resources": {"cpu": "4 cores"}}), "spec.resources.cpu", "number of CPUs"),
    Refused("cpu 0", job({"resources": {"cpu": 0}}), "spec.resources.cpu", "positive"),
    Refused("cpu is a fraction", job({"resources": {"cpu": 0.5}}), "spec.resources.cpu", "string"),
    Refused(
        "malformed memory", job({"resources": {"memory": "16GB"}}), "spec.resources.memory", "number of bytes"
    ),
    Refused("negative memory", job({"resources": {"memory": "-1Gi"}}), "spec.resources.memory", "positive"),
    Refused(
        "memory in thousandths", job({"resources": {"memory": "512m"}}), "spec.resources.memory", "bytes"
    ),
    Refused(
        "memory without suffix",
        job({"resources": {"memory": 16}}),
        "spec.resources.memory",
        "suffix such as Gi",
    ),
    Refused("malformed size", job({"storage": {"size": "ten"}}), "spec.storage.size", "number of bytes"),
    Refused(
        "size without suffix", job({"storage": {"size": "200"}}), "spec.storage.size", "suffix such as Gi"
    ),
    Refused(
        "duration without unit",
        job({"runPolicy": {"activeDeadline": "30"}}),
        "spec.runPolicy.activeDeadline",
        "30m",
    ),
    Refused(
        "duration of nothing",
        job({"runPolicy": {"activeDeadline": "0s"}}),
        "spec.runPolicy.activeDeadline",
        "1s",
    ),
    Refused(
        "stall at once", job({"runPolicy": {"stallTimeout": "0.5s"}}), "spec.runPolicy.stallTimeout", "1s"
    ),
    Refused(
        "path out of the volume", job({"resumeFrom": "../other"}), "spec.resumeFrom", "inside its folder"
    ),
    Refused(
        "path deep out of it", job({"resumeFrom": "runs/../../x"}), "spec.resumeFrom", "inside its folder"
    ),
    Refused("absolute path", job({"resumeFrom": "/etc"}), "spec.resumeFrom", "inside its folder"),
    Refused("path of two lines", job({"resumeFrom": "a\nb"}), "spec.resumeFrom", "inside its folder"),
    Refused("empty path", job({"resumeFrom": ""}), "spec.resumeFrom", "inside its folder"),
    Refused(
        "claim in capitals",
        job({"storage": {"size": None, "claimName": "Data"}}),
        "spec.storage.claimName",
        "name",
    ),
    Refused("image with a space", job({"image": "a b"}), "spec.image", "reference of an image"),
    Refused("variable with a hyphen", job({"env": [{"name": "A-B"}]}), "spec.env[0].name", "underscores"),
    Refused(
        "selector key",
        job({"resources": {"nodeSelector": {"a b": "c"}}}),
        "spec.resources.nodeSelector.a b",
        "key",
    ),
    Refused(
        "selector value",
        job({"resources": {"nodeSelector": {"a": "b c"}}}),
        "spec.resources.nodeSelector.a",
        "label",
    ),
    # fields that do not go together
    Refused("lora with full", job({"lora": {}}), "spec.lora", "not with method full"),
    Refused(
        "frozen vision with adapters",
        job({**LORA, "freezeVision": True, "lora": {"vision": True}}),
        "spec.lora.vision",
        "freezeVision",
    ),
    Refused("adapter of full", job({"export": {"adapter": True}}), "spec.export.adapter", "method full"),
    Refused(
        "epochs and maxSteps",
        job({"training": {"epochs": 1}}),
        "spec.training.epochs",
        "spec.training.maxSteps",
    ),
    Refused(
        "claim and size", job({"storage": {"claimName": "a"}}), "spec.storage.claimName", "spec.storage.size"
    ),
    Refused("neither claim nor size", job({"storage": {"size": None}}), "spec.storage", "is needed"),
    Refused("no storage", job({"storage": None}), "spec.storage", "required"),
    Refused(
        "class without size",
        job({"storage": {"size": None, "claimName": "a", "storageClassName": "b"}}),
        "spec.storage.storageClassName",
        "only with spec.storage.size",
    ),
    Refused("jsonl without data", job({"data": None}), "spec.data", "jsonl needs spec.data.path"),
    Refused(
        "jsonl with an empty data",
        job({"data": {"generate": None}}),
        "spec.data",
        "jsonl needs spec.data.path",
    ),
    Refused(
        "jsonl from the hub",
        job({"data": {"generate": None, "path": "a", "name": "b"}}),
        "spec.data.path",
        "name",
    ),
    Refused("two sources of data", job({"data": {"path": "a"}}), "spec.data.path", "spec.data.generate"),
    Refused(
        "files of generated data", job({"data": {"eval": "a.jsonl"}}), "spec.data.eval", "spec.data.generate"
    ),
    Refused(
        "split of generated data", job({"data": {"train": "a"}}), "spec.data.train", "spec.data.generate"
    ),
    Refused("root of generated data", job({"data": {"imageRoot": "."}}), "spec.data.imageRoot", "generate"),
    Refused("hub data for jsonl", job({"data": {"name": "a/b"}}), "spec.data.name", "not with task jsonl"),
    Refused(
        "generated data for docvqa", job({"task": "docvqa"}), "spec.data.generate", "only with task jsonl"
    ),
    Refused("two models", job({"model": {"path": "models/a"}}), "spec.model", "at most one"),
    Refused("revision of no hub", job({"model": {"revision": "main"}}), "spec.model.revision", "only with"),
    Refused(
        "token of no hub", job({"model": {"tokenSecret": "hub"}}), "spec.model.tokenSecret", "from the hub"
    ),
    Refused(
        "token of a model on the volume",
        job({"model": {"init": None, "path": "a", "tokenSecret": "hub"}}),
        "spec.model.tokenSecret",
        "not together with spec.model.path",
    ),
    Refused("revision of no data", job({"data": {"revision": "main"}}), "spec.data.revision", "only with"),
    Refused(
        "token of no data", job({"data": {"tokenSecret": "hub"}}), "spec.data.tokenSecret", "from the hub"
    ),
    Refused(
        "token of data on the volume",
        job({"data": {"generate": None, "path": "a", "tokenSecret": "hub"}}),
        "spec.data.tokenSecret",
        "not together with spec.data.path",
    ),
    *(
        Refused(
            f"{name} for every pod",
            job({"env": [{"name": name, "value": "hf_secret"}]}),
            "spec.env[0].name",
            "spec.model.tokenSecret",
        )
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    ),
    Refused(
        "secret in capitals",
        job({"model": {"init": None, "name": "a/b", "tokenSecret": "Hub"}}),
        "spec.model.tokenSecret",
        "lower-case",
    ),
    Refused(
        "flash with fp16",
        job(
            {"resources": GPU, "training": {"attention": "flash", "precision": "fp16", "globalBatchSize": 64}}
        ),
        "spec.training.attention",
        "bf16",
    ),
    Refused(
        "flash on CPU", job({"training": {"attention": "flash"}}), "spec.training.attention", "needs GPUs"
    ),
    Refused("fp16 on CPU", job({"training": {"precision": "fp16"}}), "spec.training.precision", "needs GPUs"),
    Refused(
        "processes with GPUs",
        job({"resources": {**GPU, "processesPerNode": 8}, "training": {"globalBatchSize": 64}}),
        "spec.resources.processesPerNode",
        "gpusPerNode: 0",
    ),
    Refused(
        "products on CPU",
        job({"resources": {"gpuProducts": ["H100"]}}),
        "spec.resources.gpuProducts",
        "gpusPerNode",
    ),
    Refused(
        "batch over ranks",
        job({"training": {"globalBatchSize": 7}}),
        "spec.training.globalBatchSize",
        "divide",
    ),
    Refused(
        "batch over devices",
        job({"training": {"globalBatchSize": 8, "perDeviceBatchSize": 3}}),
        "spec.training.globalBatchSize",
        "divide",
    ),
    Refused(
        "batch over GPUs",
        job({"resources": GPU, "training": {"globalBatchSize": 8}}),
        "spec.training.globalBatchSize",
        "divide",
    ),
    Refused(
        "shared memory without suffix",
        job({"resources": {"sharedMemory": "256"}}),
        "spec.resources.sharedMemory",
        "suffix such as Gi",
    ),
    Refused(
        "shared memory above memory",
        job({"resources": {"memory": "1Gi", "sharedMemory": "2Gi"}}),
        "spec.resources.sharedMemory",
        "cannot be larger",
    ),
    Refused(
        "steps and minutes",
        job({"checkpoint": {"everySteps": 5, "everyMinutes": 5}}),
        "spec.checkpoint.everySteps",
        "spec.checkpoint.everyMinutes",
    ),
    Refused("variable given twice", job({"env": [{"name": "A"}] * 2}), "spec.env[1].name", "twice"),
    Refused(
        "variable of the operator", job({"env": [{"name": "PET_NNODES"}]}), "spec.env[0].name", "operator's"
    ),
    Refused(
        "label of the operator",
        job({"podTemplate": {"labels": {"phitune.dev/job": "x"}}}),
        "spec.podTemplate.labels",
        "operator's",
    ),
    Refused(
        "value for every value",
        job({"resources": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}),
        "spec.resources.tolerations[0].value",
        "Exists",
    ),
    Refused(
        "toleration without key",
        job({"resources": {"tolerations": [{"operator": "Exists"}, {"value": "b"}]}}),
        "spec.resources.tolerations[1].key",
        "Equal",
    ),
    Refused(
        "seconds without NoExecute",
        job({"resources": {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]}}),
        "spec.resources.tolerations[0].tolerationSeconds",
        "NoExecute",
    ),
    Refused(
        "value for every value, in the pod template",
        job({"podTemplate": {"tolerations": [{"operator": "Exists", "value": "b"}]}}),
        "spec.podTemplate.tolerations[0].value",
        "Exists",
    ),
    Refused(
        "toleration without key, in the pod template",
        job({"podTemplate": {"tolerations": [{}]}}),
        "spec.podTemplate.tolerations[0].key",
        "Equal",
    ),
    Refused(
        "seconds without an effect, in the pod template",
        job({"podTemplate": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}}),
        "spec.podTemplate.tolerations[0].tolerationSeconds",
        "NoExecute",
    ),
]
