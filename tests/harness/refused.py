"""FineTuneJobs that are refused: for one field, or for fields that do not go together."""

from __future__ import annotations

from harness.documents import GPU, LORA, Refused, job
from harness.refused_affinity import AFFINITY
from harness.refused_alone import ALONE
from harness.refused_fields import FIELDS

REFUSED: list[Refused] = [
    *ALONE,
    *FIELDS,
    *AFFINITY,
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
        "label of the training-operator",
        job({"podTemplate": {"labels": {"training.kubeflow.org/job-name": "x"}}}),
        "spec.podTemplate.labels",
        "operators and controllers",
    ),
    Refused(
        "label that says whose a pod is",
        job({"podTemplate": {"labels": {"app.kubernetes.io/managed-by": "x"}}}),
        "spec.podTemplate.labels",
        "operators and controllers",
    ),
    Refused(
        "affinity of a kind that there is not",
        job({"podTemplate": {"affinity": {"nodeAffinities": {}}}}),
        "spec.podTemplate.affinity.nodeAffinities",
        "",
    ),
    Refused(
        "passes of several samples without packing",
        job({"training": {"packing": False, "perDeviceBatchSize": 2, "globalBatchSize": 16}}),
        "spec.training.perDeviceBatchSize",
        "packing: false",
    ),
    Refused(
        "optimizer off a CPU",
        job({"training": {"offloadOptimizer": "always"}}),
        "spec.training.offloadOptimizer",
        "method full on GPUs",
    ),
    Refused(
        "optimizer of adapters off the GPU",
        job(
            {
                "method": "lora",
                "resources": GPU,
                "training": {"offloadOptimizer": "always", "globalBatchSize": 64},
            }
        ),
        "spec.training.offloadOptimizer",
        "method full on GPUs",
    ),
    Refused(
        "label of the operator",
        job({"podTemplate": {"labels": {"phitune.dev/job": "x"}}}),
        "spec.podTemplate.labels",
        "operators and controllers",
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
