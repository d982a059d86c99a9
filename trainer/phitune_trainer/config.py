"""What a training process is told: one resolved, typed config, the same on every rank.

The operator (or `phitune run`) builds it, a ConfigMap carries it, the pod reads it back with the same class.
Nothing in it is left to choose: what depends on the cluster or on other fields is already a number here.
This module imports neither torch nor Kubernetes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from phitune_trainer.problems import HUB_NAME, RELATIVE_PATH, RUN_NAME, UID, disagreement, problems_of
from phitune_trainer.yaml_reader import YamlError, read_document, write_document

API_VERSION: Final = "phitune.dev/train.v1alpha1"

INIT_MODEL_VERSION: Final = 1
"""Raised when `init_model` makes other weights from the same size and seed; part of the folder's name."""

RelativePath = Annotated[str, Field(max_length=512, pattern=RELATIVE_PATH)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

Task = Literal["docvqa", "nlvr2", "hatefulMemes", "ucf101", "jsonl"]
Method = Literal["full", "lora", "qlora"]
Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["bf16", "fp16", "fp32"]
Attention = Literal["flash", "sdpa", "eager"]


class ConfigError(Exception):
    """The config cannot be used; `problems` has every reason, each as "path: message"."""

    def __init__(self, problems: Sequence[str], where: str = "train config"):
        self.problems = list(problems)
        super().__init__("\n".join([f"{where}: {len(self.problems)} problem(s)", *self.problems]))


class Group(BaseModel):
    """Fields that belong together: frozen, none unknown, none converted; camelCase outside Python."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        regex_engine="rust-regex",
    )


class Run(Group):
    """Which run this is: the folder of everything it writes follows from it."""

    namespace: str = Field(max_length=63, pattern=RUN_NAME)
    name: str = Field(max_length=63, pattern=RUN_NAME)
    uid: str = Field(max_length=64, pattern=UID)
    """Tells two jobs of one name apart; its first 8 characters are in the path."""
    workspace: str = Field(default="/workspace", min_length=1)
    """Folder where the volume is mounted; all other paths are relative to it."""


class Model(Group):
    """The base model: exactly one of name, path and init."""

    name: str | None = Field(default=None, max_length=256, pattern=HUB_NAME)
    """Id on the hub, for example microsoft/Phi-3.5-vision-instruct."""
    path: RelativePath | None = None
    """Folder on the volume that holds a checkpoint under its published names."""
    revision: str | None = Field(default=None, max_length=256, pattern=HUB_NAME)
    """Branch, tag or commit on the hub."""
    init: Literal["tiny"] | None = None
    """Size of a base model with random weights, made on the volume when it is not there yet."""


class Data(Group):
    """Where the samples lie: on the volume, or on the hub, from where they are fetched to the volume."""

    path: RelativePath | None = None
    """Folder on the volume."""
    name: str | None = Field(default=None, max_length=256, pattern=HUB_NAME)
    """Id on the hub, for example nielsr/docvqa_1200_examples; absent: the task's own."""
    revision: str | None = Field(default=None, max_length=256, pattern=HUB_NAME)
    """Branch, tag or commit on the hub."""
    train: RelativePath | None = None
    """Training samples: a file of the folder for task jsonl, else a split of the task. Absent: train.jsonl,
    else the task's first split."""
    eval: RelativePath | None = None
    """Held-out samples: a file of the folder for task jsonl, else a split of the task. Absent: none for
    jsonl, else the task's first split."""
    image_root: RelativePath = "images"
    """Folder of the pictures, relative to the data folder."""
    generate: Literal["digits"] | None = None
    """A data set that needs no download, made on the volume when it is not there yet."""


class Lora(Group):
    """Low-rank adapters: y = W x + (alpha / rank) B A dropout(x)."""

    rank: PositiveInt
    """Width of the two adapter matrices."""
    alpha: PositiveFloat
    """Strength: the update is multiplied by alpha / rank."""
    dropout: Fraction
    """Share of the adapter's inputs set to zero in training."""
    vision: bool
    """Whether CLIP and the projector get adapters too."""


class Training(Group):
    """How the weights move."""

    epochs: PositiveInt | None = None
    """Passes over the training samples. Exactly one of this and max_steps."""
    max_steps: PositiveInt | None = None
    """Optimizer steps."""
    global_batch_size: PositiveInt
    """Samples of one optimizer step, over all ranks."""
    micro_batch_size: PositiveInt
    """Samples of one forward pass on one device."""
    learning_rate: PositiveFloat
    """Peak of the schedule."""
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    """Optimizer steps in which the learning rate rises from 0 to its peak."""
    schedule: Schedule
    """How the learning rate falls after the warm-up, to 0 at the last step."""
    num_crops: int = Field(ge=1, le=16)
    """Most high-resolution crops of a picture; the global view is one more."""
    max_length: PositiveInt
    """Tokens, image tokens included. A longer sample is left out and counted, never cut."""
    packing: bool
    """Put the samples of a pass into one row, without padding or attention between them; else every sample is
    a pass of its own, whatever micro_batch_size says."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, more time."""
    gradient_checkpointing_forbidden: bool | None = None
    """Not even after a start that ran out of memory. Absent: then it is tried."""
    precision: Precision
    attention: Attention
    seed: int = Field(ge=0, le=2**31 - 1)
    """Of weights made here, adapters, dropout and the order of the samples."""
    offload_optimizer: bool = False
    """Keep AdamW's state, and take its step, in the memory of the host: less GPU memory, more time."""

    @property
    def samples_per_pass(self) -> int:
        """Most samples that one forward pass takes."""
        return self.micro_batch_size if self.packing else 1


class World(Group):
    """How many processes train together, and on what."""

    nodes: PositiveInt
    processes_per_node: PositiveInt
    device: Literal["cpu", "cuda"]

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.processes_per_node


class Checkpoint(Group):
    """When the state is saved, so that a run can go on after a fault: exactly one of the two intervals."""

    every_steps: PositiveInt | None = None
    """Optimizer steps between two checkpoints."""
    every_minutes: PositiveFloat | None = None
    """Minutes between two checkpoints."""
    keep: PositiveInt
    """Checkpoints kept; older ones are removed."""


class Evaluation(Group):
    """When held-out samples are answered and scored; always once at the end when enabled."""

    enabled: bool
    every_steps: PositiveInt | None = None
    """Optimizer steps between two evaluations while training; absent: none in between."""
    max_samples: PositiveInt | None = None
    """Held-out samples used, the first ones of the file; absent: all."""
    baseline: bool
    """Whether the base model is scored before training, to compare with."""


class Export(Group):
    """What is left under export/ at the end."""

    merged: bool
    """Weights under the published names, adapters merged in."""
    adapter: bool
    """The adapters alone, in PEFT's layout; not with method full."""


class TrainConfig(Group):
    """Everything a rank needs to know. Build it, or read it with `load_config`; both check it whole."""

    api_version: Literal["phitune.dev/train.v1alpha1"] = API_VERSION
    run: Run
    model: Model
    task: Task
    data: Data
    method: Method
    freeze_vision: bool = False
    """Leave CLIP and the projector as they are."""
    lora: Lora | None = None
    resume_from: RelativePath | None = None
    """Folder on the volume of another run (its newest good checkpoint counts) or of one of its checkpoints:
    this run begins with the weights or adapters from there, and with a fresh optimizer and schedule. Absent:
    with the base model's. A start that finds checkpoints of its own run continues from those."""
    training: Training
    world: World
    checkpoint: Checkpoint
    evaluation: Evaluation
    export: Export

    @property
    def run_dir(self) -> Path:
        """Folder of this run: <workspace>/runs/<namespace>/<name>/<first 8 characters of uid>."""
        return Path(self.run.workspace, "runs", self.run.namespace, self.run.name, self.run.uid[:8])

    @property
    def model_dir(self) -> Path:
        """Folder of the base model: where it lies, or where prepare puts it."""
        workspace = Path(self.run.workspace)
        if self.model.path is not None:
            return workspace / self.model.path
        if self.model.init is not None:
            key = f"{self.model.init}:{INIT_MODEL_VERSION}:{self.training.seed}"
            return (
                workspace
                / "models"
                / f"init-{self.model.init}"
                / hashlib.sha256(key.encode()).hexdigest()[:12]
            )
        return workspace / "models" / _folder(self.model.name or "") / _folder(self.model.revision or "main")

    @property
    def data_dir(self) -> Path:
        """Folder of the data: where it lies, or where prepare puts it."""
        workspace = Path(self.run.workspace)
        if self.data.path is not None:
            return workspace / self.data.path
        if self.data.generate is not None:
            return workspace / "data" / self.data.generate
        return (
            workspace / "data" / _folder(self.data.name or self.task) / _folder(self.data.revision or "main")
        )

    @property
    def accumulation_steps(self) -> int:
        """Forward passes of one rank in one optimizer step."""
        return self.training.global_batch_size // (self.training.samples_per_pass * self.world.size)

    def to_yaml(self) -> str:
        """The config as `load_config` reads it; the same bytes for the same config."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return write_document(document)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        problems = list(self._disagreements())
        if problems:
            raise disagreement(problems)
        return self

    def _disagreements(self) -> Iterator[str]:
        yield from _one_of("model", self.model, ["name", "path", "init"])
        yield from _one_of("training", self.training, ["epochs", "max_steps"])
        yield from _one_of("checkpoint", self.checkpoint, ["every_steps", "every_minutes"])
        if self.task == "jsonl":
            yield from _one_of("data", self.data, ["path", "generate"])
        if self.method == "full" and self.lora is not None:
            yield "lora: not with method full; remove it, or use method lora or qlora"
        if self.method != "full" and self.lora is None:
            yield f"lora: needed with method {self.method}, with rank, alpha, dropout and vision"
        if self.freeze_vision and self.lora is not None and self.lora.vision:
            yield (
                "lora.vision: not with freezeVision, which leaves the vision part as it is; "
                "set one of them to false"
            )
        if self.export.adapter and self.method == "full":
            yield "export.adapter: method full trains no adapter; use export.merged"
        if self.evaluation.enabled and self.task == "jsonl" and self.data.eval is None:
            yield "evaluation.enabled: needs data.eval, the file of the held-out samples"
        step = self.world.size * self.training.micro_batch_size
        if self.training.global_batch_size % step:
            yield (
                f"training.globalBatchSize: {self.training.global_batch_size} does not divide over "
                f"{self.world.size} ranks x {self.training.micro_batch_size}; use a multiple of {step}"
            )
        yield from self._hardware_disagreements()

    def _hardware_disagreements(self) -> Iterator[str]:
        if self.training.attention == "flash" and self.training.precision != "bf16":
            yield f"training.attention: flash needs precision bf16, got {self.training.precision}; use sdpa"
        if self.training.attention == "flash" and self.world.device == "cpu":
            yield "training.attention: flash needs a GPU; use sdpa"
        if self.training.precision == "fp16" and self.world.device == "cpu":
            yield "training.precision: fp16 needs a GPU; use fp32 or bf16"
        if self.training.offload_optimizer and self.method != "full":
            yield (
                f"training.offloadOptimizer: not with method {self.method}, whose optimizer state is small; "
                "remove it"
            )
        if self.training.offload_optimizer and self.world.device == "cpu":
            yield "training.offloadOptimizer: needs a GPU, or there is nothing to take off it; remove it"


def load_config(path: Path) -> TrainConfig:
    """Read and check a config file; ConfigError holds all its problems, each with its path or its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], str(path)) from error
    try:
        document = read_document(text)
    except YamlError as error:
        raise ConfigError([str(error)], str(path)) from error
    return parse_config(document, str(path))


def parse_config(document: object, where: str = "train config") -> TrainConfig:
    """Check a config given as plain data with camelCase keys; ConfigError holds all its problems."""
    try:
        return TrainConfig.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ConfigError(problems_of(error), where) from error


def _folder(hub_name: str) -> str:
    """The one folder that stands for a repository or a revision of the hub, whose names may have slashes."""
    return hub_name.replace("/", "--")


def _one_of(path: str, group: Group, names: Sequence[str]) -> Iterator[str]:
    given = [to_camel(name) for name in names if getattr(group, name) is not None]
    if len(given) != 1:
        wanted = ", ".join(to_camel(name) for name in names[:-1])
        yield (
            f"{path}: exactly one of {wanted} and {to_camel(names[-1])} is needed, "
            f"got {' and '.join(given) or 'none'}"
        )
