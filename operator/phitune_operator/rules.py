"""Rules between fields, each once: as CEL for the API server and as Python for `phitune render`."""

from typing import Final

from phitune_operator import names
from phitune_operator.fields import quantity
from phitune_operator.rule import (
    Node,
    Rule,
    at_least_a_mebibyte,
    at_least_a_second,
    at_most,
    get,
    has,
    has_cel,
    not_together,
    only_when,
    only_with,
)
from phitune_operator.rules_of_pods import POD_RULES


def _ranks(spec: Node) -> int:
    gpus = int(get(spec, "resources.gpusPerNode"))
    return int(get(spec, "resources.nodes")) * (gpus or int(get(spec, "resources.processesPerNode") or 1))


def _smallest_batch(spec: Node) -> int:
    return _ranks(spec) * int(get(spec, "training.perDeviceBatchSize") or 1)


_SMALLEST_BATCH_CEL: Final = (
    "(self.resources.nodes * (self.resources.gpusPerNode > 0 ? self.resources.gpusPerNode : "
    "(has(self.resources.processesPerNode) ? self.resources.processesPerNode : 1)) * "
    "(has(self.training.perDeviceBatchSize) ? self.training.perDeviceBatchSize : 1))"
)


def _batch_message(spec: Node) -> str:
    batch, smallest = get(spec, "training.globalBatchSize"), _smallest_batch(spec)
    return f"{batch} does not divide over {_BATCH_FACTORS} = {smallest}; use a multiple, or leave it out"


_BATCH_FACTORS: Final = "nodes x processes of a node x spec.training.perDeviceBatchSize"
_GLOBAL_BATCH: Final = Rule(
    at="spec",
    field="training.globalBatchSize",
    cel=f"!has(self.training.globalBatchSize) || self.training.globalBatchSize % {_SMALLEST_BATCH_CEL} == 0",
    holds=lambda spec: (get(spec, "training.globalBatchSize") or 0) % _smallest_batch(spec) == 0,
    message=f"must divide over {_BATCH_FACTORS}; use a multiple of that product, or leave it out",
    explain=_batch_message,
)

_METADATA_NAME: Final = Rule(
    at="",
    field="metadata.name",
    cel=f"self.metadata.name.size() <= {names.MAX_JOB_NAME} && "
    f"self.metadata.name.matches('{names.JOB_NAME_PATTERN}')",
    holds=None,
    message=f"must be at most {names.MAX_JOB_NAME} lower-case letters, digits and hyphens, first a letter, "
    "last no hyphen, because the names of pods and hosts begin with it",
)

RULES: Final[list[Rule]] = [
    _METADATA_NAME,
    Rule(
        at="spec",
        field="model",
        cel="!has(self.model) || [has(self.model.name), has(self.model.path), has(self.model.init)]"
        ".filter(given, given).size() <= 1",
        holds=lambda spec: sum(has(spec, f"model.{key}") for key in ("name", "path", "init")) <= 1,
        message="at most one of name, path and init; without any, the published model is fetched",
    ),
    only_with("model.revision", "model.name"),
    *(
        not_together("model.tokenSecret", f"model.{other}", "a token is for what comes from the hub")
        for other in ("path", "init")
    ),
    only_with("data.revision", "data.name"),
    *(
        not_together("data.tokenSecret", f"data.{other}", "a token is for what comes from the hub")
        for other in ("path", "generate")
    ),
    Rule(
        at="spec",
        field="data",
        cel=f"self.task != 'jsonl' || ({has_cel('data.path')}) || ({has_cel('data.generate')})",
        holds=lambda spec: spec["task"] != "jsonl" or has(spec, "data.path") or has(spec, "data.generate"),
        message="task jsonl needs spec.data.path, a folder on the volume, or spec.data.generate",
    ),
    not_together("data.path", "data.generate", "the one is there already, the other is made"),
    not_together("data.path", "data.name", "take the data from the volume or from the hub"),
    *(
        not_together(f"data.{field}", "data.generate", "generated data has its own files")
        for field in ("train", "eval", "imageRoot")
    ),
    only_when(
        "data.generate", "self.task == 'jsonl'", lambda spec: spec["task"] == "jsonl", "only with task jsonl"
    ),
    only_when(
        "data.name",
        "self.task != 'jsonl'",
        lambda spec: spec["task"] != "jsonl",
        "not with task jsonl, whose data lies in spec.data.path",
    ),
    only_when(
        "lora",
        "self.method != 'full'",
        lambda spec: spec["method"] != "full",
        "not with method full; remove it, or use method lora or qlora",
    ),
    Rule(
        at="spec",
        field="lora.vision",
        cel="!self.freezeVision || !has(self.lora) || !has(self.lora.vision) || !self.lora.vision",
        holds=lambda spec: not (spec["freezeVision"] and get(spec, "lora.vision")),
        message="true is not possible with spec.freezeVision: true",
    ),
    Rule(
        at="spec",
        field="export.adapter",
        cel="self.method != 'full' || !has(self.export.adapter) || !self.export.adapter",
        holds=lambda spec: not (spec["method"] == "full" and get(spec, "export.adapter")),
        message="method full trains no adapter; remove it, or use method lora or qlora",
    ),
    not_together("training.epochs", "training.maxSteps", "keep the one that counts"),
    _GLOBAL_BATCH,
    Rule(
        at="spec",
        field="training.attention",
        cel="self.training.attention != 'flash' || self.training.precision in ['auto', 'bf16']",
        holds=lambda spec: (
            get(spec, "training.attention") != "flash" or get(spec, "training.precision") in ("auto", "bf16")
        ),
        message="flash computes in bf16 only; use spec.training.precision: bf16, or attention: sdpa",
    ),
    Rule(
        at="spec",
        field="training.attention",
        cel="self.training.attention != 'flash' || self.resources.gpusPerNode > 0",
        holds=lambda spec: (
            get(spec, "training.attention") != "flash" or get(spec, "resources.gpusPerNode") > 0
        ),
        message="flash needs GPUs; use sdpa, or set spec.resources.gpusPerNode",
    ),
    Rule(
        at="spec",
        field="training.precision",
        cel="self.training.precision != 'fp16' || self.resources.gpusPerNode > 0",
        holds=lambda spec: (
            get(spec, "training.precision") != "fp16" or get(spec, "resources.gpusPerNode") > 0
        ),
        message="fp16 needs GPUs; use fp32 or bf16, or set spec.resources.gpusPerNode",
    ),
    only_when(
        "training.perDeviceBatchSize",
        "(self.training.packing || self.training.perDeviceBatchSize == 1)",
        lambda spec: get(spec, "training.packing") or get(spec, "training.perDeviceBatchSize") == 1,
        "must be 1 with spec.training.packing: false, where every sample is a pass of its own",
    ),
    Rule(
        at="spec",
        field="training.offloadOptimizer",
        cel="self.training.offloadOptimizer != 'always' || "
        "(self.method == 'full' && self.resources.gpusPerNode > 0)",
        holds=lambda spec: (
            get(spec, "training.offloadOptimizer") != "always"
            or (spec["method"] == "full" and get(spec, "resources.gpusPerNode") > 0)
        ),
        message="always is for method full on GPUs, which alone has state to take off them; use auto",
    ),
    only_when(
        "resources.processesPerNode",
        "self.resources.gpusPerNode == 0",
        lambda spec: get(spec, "resources.gpusPerNode") == 0,
        "only with spec.resources.gpusPerNode: 0; with GPUs there is one process for each",
    ),
    only_when(
        "resources.gpuProducts",
        "self.resources.gpusPerNode > 0",
        lambda spec: get(spec, "resources.gpusPerNode") > 0,
        "not with spec.resources.gpusPerNode: 0",
    ),
    only_when(
        "resources.priorityClassName",
        "!self.resources.priorityClassName.startsWith('system-')",
        lambda spec: not get(spec, "resources.priorityClassName").startswith("system-"),
        "classes that begin with system- are those of the cluster's own pods; use another",
    ),
    at_most("resources.cpu", "10k"),
    at_least_a_mebibyte("resources.memory"),
    at_most("resources.memory", "1Pi"),
    at_least_a_mebibyte("resources.sharedMemory"),
    Rule(
        at="spec",
        field="resources.sharedMemory",
        cel="!has(self.resources.memory) || !has(self.resources.sharedMemory) || "
        "quantity(string(self.resources.sharedMemory))"
        ".compareTo(quantity(string(self.resources.memory))) <= 0",
        holds=lambda spec: (
            not has(spec, "resources.memory")
            or not has(spec, "resources.sharedMemory")
            or quantity(get(spec, "resources.sharedMemory")) <= quantity(get(spec, "resources.memory"))
        ),
        message="is a part of spec.resources.memory and cannot be larger",
    ),
    *POD_RULES,
    not_together("storage.claimName", "storage.size", "use a claim that exists, or have one made"),
    Rule(
        at="spec",
        field="storage",
        cel="has(self.storage.claimName) || has(self.storage.size)",
        holds=lambda spec: has(spec, "storage.claimName") or has(spec, "storage.size"),
        message="claimName, a claim that exists, or size, for one that is made, is needed",
    ),
    at_least_a_mebibyte("storage.size"),
    at_most("storage.size", "1Ei"),
    only_with("storage.storageClassName", "storage.size"),
    not_together("checkpoint.everySteps", "checkpoint.everyMinutes", "keep the one that counts"),
    at_least_a_second("runPolicy.stallTimeout"),
    at_least_a_second("runPolicy.activeDeadline"),
]
"""Everything that must hold between fields, in the order of the fields."""

IMMUTABLE: Final = (
    "model",
    "task",
    "data",
    "method",
    "freezeVision",
    "lora",
    "training",
    "resources.nodes",
    "resources.gpusPerNode",
    "resources.processesPerNode",
    "resources.gpuProducts",
    "storage.claimName",
    "storage.size",
    "storage.storageClassName",
    "storage.retain",
    "checkpoint",
    "evaluation",
    "export",
    "resumeFrom",
)
"""Fields of spec that a run is built on: a change, and adding or removing one, is refused."""
