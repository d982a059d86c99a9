"""Rules between fields, each once: as CEL for the API server and as Python for `phitune render`.

Both halves of a rule see the same thing, the object with the schema's defaults filled in, and say the same
sentence, which begins with the full path of the field to change.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from phitune_operator import names
from phitune_operator.fields import LABEL_KEY, quantity, seconds

Node = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One sentence that must hold of every object found at a place of the document."""

    at: str
    """Place of the rule in the schema; [*] stands for every entry of a list. Empty: the whole object."""
    field: str
    """Field to name, relative to the place."""
    cel: str
    holds: Callable[[Node], bool] | None
    """None where the types have checked the same already, and only the API server needs to be told."""
    message: str
    """What must hold and what to do, without the path."""
    explain: Callable[[Node], str] | None = None
    """The message with the numbers of the object; the API server's budget for CEL does not allow it."""

    @property
    def path(self) -> str:
        """Full path of the field to name, with [*] where lists are."""
        return ".".join(part for part in (self.at, self.field) if part)

    def reads(self) -> list[str]:
        """Fields that the rule looks at, relative to its place; not the groups on the way to them."""
        found = re.findall(r"self((?:\.[A-Za-z]+(?!\w*\())+)", self.cel)
        paths = {path.removeprefix(".") for path in found}
        return sorted(path for path in paths if not any(other.startswith(f"{path}.") for other in paths))


def get(node: Node, path: str) -> Any:
    """Value of a field inside a document, None where it or a part of the way to it is absent."""
    value: Any = node
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def has(node: Node, path: str) -> bool:
    """Whether the field is given."""
    return get(node, path) is not None


def _has_cel(path: str) -> str:
    """CEL for "the field is given": has() fails where the way to the field is absent."""
    parts = path.split(".")
    return " && ".join(f"has(self.{'.'.join(parts[:depth])})" for depth in range(1, len(parts) + 1))


def _not_together(path: str, other: str, hint: str) -> Rule:
    return Rule(
        at="spec",
        field=path,
        cel=f"!({_has_cel(path)} && {_has_cel(other)})",
        holds=lambda spec: not (has(spec, path) and has(spec, other)),
        message=f"not together with spec.{other}; {hint}",
    )


def _only_with(path: str, other: str) -> Rule:
    return Rule(
        at="spec",
        field=path,
        cel=f"!({_has_cel(path)}) || ({_has_cel(other)})",
        holds=lambda spec: not has(spec, path) or has(spec, other),
        message=f"only with spec.{other}; set that or leave this out",
    )


def _only_when(path: str, cel: str, holds: Callable[[Node], bool], message: str) -> Rule:
    return Rule(
        at="spec",
        field=path,
        cel=f"!({_has_cel(path)}) || {cel}",
        holds=lambda spec: not has(spec, path) or holds(spec),
        message=message,
    )


def _at_least_a_second(path: str) -> Rule:
    return _only_when(
        path,
        f"duration(self.{path}) >= duration('1s')",
        lambda spec: seconds(get(spec, path)) >= 1,
        'must be at least "1s"',
    )


def _at_least_a_mebibyte(path: str) -> Rule:
    return _only_when(
        path,
        f"quantity(string(self.{path})).compareTo(quantity('1Mi')) >= 0",
        lambda spec: quantity(get(spec, path)) >= quantity("1Mi"),
        'must be at least "1Mi"; is a suffix such as Gi missing?',
    )


def _at_most(path: str, bound: str) -> Rule:
    return _only_when(
        path,
        f"quantity(string(self.{path})).compareTo(quantity('{bound}')) <= 0",
        lambda spec: quantity(get(spec, path)) <= quantity(bound),
        f'must be at most "{bound}"',
    )


def _toleration_rules(at: str) -> list[Rule]:
    return [
        Rule(
            at=at,
            field="value",
            cel="self.operator == 'Equal' || !has(self.value)",
            holds=lambda node: node["operator"] == "Equal" or "value" not in node,
            message="not with operator Exists, which matches every value",
        ),
        Rule(
            at=at,
            field="key",
            cel="self.operator == 'Exists' || has(self.key)",
            holds=lambda node: node["operator"] == "Exists" or "key" in node,
            message="needed with operator Equal; operator Exists alone tolerates every taint",
        ),
        Rule(
            at=at,
            field="tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda node: "tolerationSeconds" not in node or node.get("effect") == "NoExecute",
            message="only with effect NoExecute",
        ),
    ]


def _keys_of_labels(path: str) -> Rule:
    return Rule(
        at="spec",
        field=path,
        cel=f"!({_has_cel(path)}) || self.{path}.all(key, key.size() <= 317 && key.matches(r'{LABEL_KEY}'))",
        holds=None,
        message="every key must be the key of a label, such as example.com/pool",
    )


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

_OUR_LABELS: Final = (
    f"{names.GROUP}/",
    f"{names.TRAINING_OPERATOR_GROUP}/",
    "batch.kubernetes.io/",
    "jobset.sigs.k8s.io/",
    "kueue.x-k8s.io/",
    "job-name",
    "controller-uid",
    names.LABEL_NAME,
    names.LABEL_MANAGED_BY,
)
"""Beginnings of the keys by which operators find their pods."""
_OURS_CEL: Final = " || ".join(f"key.startsWith('{prefix}')" for prefix in _OUR_LABELS)

_MOST_ENV: Final = 64 * 1024
_ENV_SIZE: Final = Rule(
    at="spec",
    field="env",
    cel=f"!has(self.env) || self.env.map(variable, variable.value.size()).sum() <= {_MOST_ENV}",
    # An entry that is wrong in itself is here, too: what is said of it stands beside this.
    holds=lambda spec: sum(len(str(get(one, "value"))) for one in get(spec, "env") or []) <= _MOST_ENV,
    message=f"at most {_MOST_ENV:,} characters of values together, which every pod repeats; put "
    "files on the volume",
)

_CONFINEMENT: Final = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
"""Beginnings of the keys of annotations by which kubelets loosen, or tighten, what confines a container."""
_CONFINEMENT_CEL: Final = " || ".join(f"key.startsWith('{prefix}')" for prefix in _CONFINEMENT)

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
    _only_with("model.revision", "model.name"),
    *(
        _not_together("model.tokenSecret", f"model.{other}", "a token is for what comes from the hub")
        for other in ("path", "init")
    ),
    _only_with("data.revision", "data.name"),
    *(
        _not_together("data.tokenSecret", f"data.{other}", "a token is for what comes from the hub")
        for other in ("path", "generate")
    ),
    Rule(
        at="spec",
        field="data",
        cel=f"self.task != 'jsonl' || ({_has_cel('data.path')}) || ({_has_cel('data.generate')})",
        holds=lambda spec: spec["task"] != "jsonl" or has(spec, "data.path") or has(spec, "data.generate"),
        message="task jsonl needs spec.data.path, a folder on the volume, or spec.data.generate",
    ),
    _not_together("data.path", "data.generate", "the one is there already, the other is made"),
    _not_together("data.path", "data.name", "take the data from the volume or from the hub"),
    *(
        _not_together(f"data.{field}", "data.generate", "generated data has its own files")
        for field in ("train", "eval", "imageRoot")
    ),
    _only_when(
        "data.generate", "self.task == 'jsonl'", lambda spec: spec["task"] == "jsonl", "only with task jsonl"
    ),
    _only_when(
        "data.name",
        "self.task != 'jsonl'",
        lambda spec: spec["task"] != "jsonl",
        "not with task jsonl, whose data lies in spec.data.path",
    ),
    _only_when(
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
    _not_together("training.epochs", "training.maxSteps", "keep the one that counts"),
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
    _only_when(
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
    _only_when(
        "resources.processesPerNode",
        "self.resources.gpusPerNode == 0",
        lambda spec: get(spec, "resources.gpusPerNode") == 0,
        "only with spec.resources.gpusPerNode: 0; with GPUs there is one process for each",
    ),
    _only_when(
        "resources.gpuProducts",
        "self.resources.gpusPerNode > 0",
        lambda spec: get(spec, "resources.gpusPerNode") > 0,
        "not with spec.resources.gpusPerNode: 0",
    ),
    _only_when(
        "resources.priorityClassName",
        "!self.resources.priorityClassName.startsWith('system-')",
        lambda spec: not get(spec, "resources.priorityClassName").startswith("system-"),
        "classes that begin with system- are those of the cluster's own pods; use another",
    ),
    _at_most("resources.cpu", "10k"),
    _at_least_a_mebibyte("resources.memory"),
    _at_most("resources.memory", "1Pi"),
    _at_least_a_mebibyte("resources.sharedMemory"),
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
    _keys_of_labels("resources.nodeSelector"),
    _keys_of_labels("podTemplate.labels"),
    _keys_of_labels("podTemplate.annotations"),
    Rule(
        at="spec",
        field="podTemplate.annotations",
        cel="!has(self.podTemplate) || !has(self.podTemplate.annotations) || "
        f"!self.podTemplate.annotations.exists(key, {_CONFINEMENT_CEL})",
        holds=lambda spec: (
            not any(key.startswith(_CONFINEMENT) for key in get(spec, "podTemplate.annotations") or {})
        ),
        message="what confines a container is not the job's to change",
    ),
    Rule(
        at="spec",
        field="podTemplate.labels",
        cel="!has(self.podTemplate) || !has(self.podTemplate.labels) || "
        f"!self.podTemplate.labels.exists(key, {_OURS_CEL})",
        holds=lambda spec: (
            not any(key.startswith(_OUR_LABELS) for key in get(spec, "podTemplate.labels") or {})
        ),
        message=f"labels that begin with {', '.join(_OUR_LABELS)} are those of operators and controllers",
    ),
    Rule(
        at="spec.podTemplate.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms[*]",
        field="matchExpressions",
        cel="has(self.matchExpressions) || has(self.matchFields)",
        holds=lambda term: "matchExpressions" in term or "matchFields" in term,
        message="this or matchFields is needed: an empty term matches no node",
    ),
    *_toleration_rules("spec.resources.tolerations[*]"),
    *_toleration_rules("spec.podTemplate.tolerations[*]"),
    _ENV_SIZE,
    Rule(
        at="spec.env[*]",
        field="name",
        cel="!self.name.startsWith('PET_') && !self.name.startsWith('PHITUNE_')",
        holds=lambda variable: not variable["name"].startswith(("PET_", "PHITUNE_")),
        message="names beginning with PET_ or PHITUNE_ are the operator's",
    ),
    Rule(
        at="spec.env[*]",
        field="name",
        cel=f"!(self.name in [{', '.join(repr(name) for name in names.HUB_TOKEN_VARIABLES)}])",
        holds=lambda variable: variable["name"] not in names.HUB_TOKEN_VARIABLES,
        message="every pod would hold the token, and everyone who reads the job see it; put it into a secret "
        f"under the key {names.SECRET_TOKEN_KEY}, and name that in spec.model.tokenSecret or "
        "spec.data.tokenSecret",
    ),
    _not_together("storage.claimName", "storage.size", "use a claim that exists, or have one made"),
    Rule(
        at="spec",
        field="storage",
        cel="has(self.storage.claimName) || has(self.storage.size)",
        holds=lambda spec: has(spec, "storage.claimName") or has(spec, "storage.size"),
        message="claimName, a claim that exists, or size, for one that is made, is needed",
    ),
    _at_least_a_mebibyte("storage.size"),
    _at_most("storage.size", "1Ei"),
    _only_with("storage.storageClassName", "storage.size"),
    _not_together("checkpoint.everySteps", "checkpoint.everyMinutes", "keep the one that counts"),
    _at_least_a_second("runPolicy.stallTimeout"),
    _at_least_a_second("runPolicy.activeDeadline"),
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
