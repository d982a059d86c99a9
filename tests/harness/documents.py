"""FineTuneJobs that are accepted; those that are refused are in harness.refused.

`phitune render` and the API server must say the same of every row: neither lets through what the other
refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.affinity import EMPTY, PREFERRED, REQUIRED, WISHES
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
    "affinity with empty lists": job({"podTemplate": {"affinity": EMPTY}}),
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
                "affinity": WISHES,
                "schedulerName": "volcano",
            }
        }
    ),
    "wishes that say nothing": job(
        {
            "podTemplate": {
                "affinity": {
                    "nodeAffinity": {PREFERRED: [{"weight": 1, "preference": {}}]},
                    "podAffinity": {REQUIRED: [{"topologyKey": "zone"}], PREFERRED: []},
                    "podAntiAffinity": {REQUIRED: [{"topologyKey": "zone", "labelSelector": {}}]},
                }
            }
        }
    ),
    "queue and resume": job({"queueName": "team-a", "resumeFrom": "runs/ns/job/0123abcd"}),
}
