"""Fills in what a FineTuneJob leaves open, from the recipe and from where the job will run.

Pure: the same job on the same GPU resolves to the same config. What the recipe states stands in `recipe.py`;
"not published" marks what it does not. A choice that a user may wonder about becomes a note.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from phitune_operator.api import DEFAULT_MODEL, FineTuneJob, FineTuneJobSpec
from phitune_operator.blocked import BlockedError
from phitune_operator.builds import Build, build_for
from phitune_operator.fields import quantity
from phitune_operator.recipe import (
    FLAG_LORA_RANK,
    FLAG_WARMUP,
    FLAGS,
    RECIPE,
    STILL_CROPS,
    VIDEO_CROPS,
    Row,
)
from phitune_operator.suitable import FLASH_FROM, check_capability, version
from phitune_trainer.config import (
    Attention,
    Checkpoint,
    Data,
    Evaluation,
    Export,
    Lora,
    Model,
    Precision,
    Run,
    TrainConfig,
    Training,
    World,
)
from phitune_trainer.memory import BF16_FROM, GIB, Choice, Gpu, choose, host_bytes, setup_of

CHECKPOINT_MINUTES: Final = 15.0
"""Not published: the recipe has no checkpoints."""
TINY_MICRO_BATCH: Final = 8
"""Samples of a forward pass on CPU of a model made here, which is small everywhere. Others get 1."""


@dataclass(frozen=True)
class Resolved:
    """A config with nothing left open."""

    train: TrainConfig
    notes: list[str] = field(default_factory=list)
    """What was chosen or adjusted for the user, a sentence each."""
    memory: Choice | None = None
    """How the job fits in the GPU's memory; None on CPU, and where that memory is not known."""
    build: Build | None = None
    """The build of the trainer for the GPU, whatever image the job names; None where one image is for all,
    nobody knows the GPU, or no build can do what the job asks of its own image."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What there is to run a job on, beside the GPU itself."""

    builds: Sequence[Build]
    """Builds of the trainer that there are images of."""
    driver: int | None
    """Major version of the NVIDIA driver; None if nothing tells it."""


def resolve(
    job: FineTuneJob, *, namespace: str, uid: str, gpu: Gpu | None = None, offer: Offer | None = None
) -> Resolved:
    """The config that the job's pods read. The job must be one that `validate` accepts.

    `gpu` is what it will run on; None on CPU, or where no cluster is at hand: then one of today's is taken,
    the smallest batch goes through it at a time, and a note says so. `offer`: None where one image is for
    all GPUs, and has all that they can use. Raises BlockedError if that GPU cannot do what is asked, or no
    image is for it.
    """
    check_capability(job.spec, gpu)
    spec, notes = job.spec, list[str]()
    row = RECIPE.get((spec.task, spec.method, spec.freeze_vision), FLAGS)
    world = _world(spec)
    data = _data(spec)
    precision = _precision(spec, world, gpu, notes)
    build = _build(spec, gpu, offer, precision)
    attention = _attention(spec, world, gpu, precision, build if spec.image is None else None, notes)
    train = TrainConfig(
        run=Run(namespace=namespace, name=job.metadata.name, uid=uid),
        model=_model(spec),
        task=spec.task,
        data=data,
        method=spec.method,
        freeze_vision=spec.freeze_vision,
        lora=_lora(spec, row),
        resume_from=spec.resume_from,
        training=_training(spec, row, world, precision, attention, notes),
        world=world,
        checkpoint=_checkpoint(spec),
        evaluation=_evaluation(spec, data, notes),
        export=Export(
            merged=spec.export.merged,
            adapter=spec.method != "full" if spec.export.adapter is None else spec.export.adapter,
        ),
    )
    memory = _fit(train, spec, gpu, notes)
    if memory is not None:
        fitting = {
            "micro_batch_size": memory.setup.micro_batch,
            "gradient_checkpointing": memory.setup.recompute,
            "offload_optimizer": memory.setup.offload,
        }
        train = train.model_copy(update={"training": train.training.model_copy(update=fitting)})
    has_attention = build is not None and attention in build.attention
    return Resolved(train, notes, memory, build if has_attention else None)


def cpu_request(spec: FineTuneJobSpec) -> str:
    """CPUs that each pod requests."""
    resources = spec.resources
    return resources.cpu or str(4 * resources.gpus_per_node or resources.processes_per_node or 1)


def memory_limit(spec: FineTuneJobSpec, train: TrainConfig) -> str:
    """Memory of each pod: at least its shared memory, with room for an optimizer that is not on the GPU."""
    resources = spec.resources
    if resources.memory is not None:
        return resources.memory
    usual = 64 * resources.gpus_per_node or 3 * (resources.processes_per_node or 1)
    optimizer = train.world.processes_per_node * host_bytes(setup_of(train))
    default = f"{usual + -(-optimizer // GIB)}Gi"
    shared = shared_memory(spec)
    return shared if quantity(shared) > quantity(default) else default


def shared_memory(spec: FineTuneJobSpec) -> str:
    """Size of /dev/shm in each pod; never more than the memory that was asked for."""
    resources = spec.resources
    if resources.shared_memory is not None:
        return resources.shared_memory
    gpus = resources.gpus_per_node
    default = f"{8 * gpus}Gi" if gpus else f"{256 * (resources.processes_per_node or 1)}Mi"
    if resources.memory is not None and quantity(resources.memory) < quantity(default):
        return resources.memory
    return default


def lora_vision(spec: FineTuneJobSpec) -> bool:
    """Whether adapters go on the vision part: the recipe's choice is yes, unless it is frozen."""
    asked = spec.lora.vision if spec.lora else None
    return not spec.freeze_vision if asked is None else asked


def _world(spec: FineTuneJobSpec) -> World:
    resources = spec.resources
    return World(
        nodes=resources.nodes,
        processes_per_node=resources.gpus_per_node or resources.processes_per_node or 1,
        device="cuda" if resources.gpus_per_node else "cpu",
    )


def _model(spec: FineTuneJobSpec) -> Model:
    model = spec.model
    if model is None:
        return Model(name=DEFAULT_MODEL)
    is_elsewhere = model.path is not None or model.init is not None
    name = model.name or (None if is_elsewhere else DEFAULT_MODEL)
    return Model(name=name, path=model.path, revision=model.revision, init=model.init)


def _data(spec: FineTuneJobSpec) -> Data:
    given = spec.data
    if given is None:
        return Data()
    if given.generate is not None:
        return Data(generate=given.generate, train="train.jsonl", eval="eval.jsonl")
    return Data(
        path=given.path,
        name=given.name,
        revision=given.revision,
        train=given.train or ("train.jsonl" if spec.task == "jsonl" else None),
        eval=given.eval,
        image_root=given.image_root or "images",
    )


def _lora(spec: FineTuneJobSpec, row: Row) -> Lora | None:
    if spec.method == "full":
        return None
    rank, alpha = row.lora or (FLAG_LORA_RANK, None)
    asked = spec.lora
    if asked is not None and asked.rank is not None:
        # The table's alpha belongs to the table's rank.
        rank, alpha = asked.rank, alpha if asked.rank == rank else None
    if asked is not None and asked.alpha is not None:
        alpha = asked.alpha
    return Lora(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        dropout=asked.dropout if asked is not None else 0.0,
        vision=lora_vision(spec),
    )


def _training(
    spec: FineTuneJobSpec,
    row: Row,
    world: World,
    precision: Precision,
    attention: Attention,
    notes: list[str],
) -> Training:
    asked = spec.training
    global_batch = _global_batch(spec, row, world, notes)
    return Training(
        epochs=None if asked.max_steps is not None else asked.epochs or row.epochs,
        max_steps=asked.max_steps,
        global_batch_size=global_batch,
        micro_batch_size=asked.per_device_batch_size or _micro_batch(spec, world, global_batch // world.size),
        learning_rate=row.learning_rate if asked.learning_rate is None else asked.learning_rate,
        weight_decay=asked.weight_decay,
        warmup_steps=_warmup(spec, notes),
        schedule=asked.schedule,
        num_crops=asked.num_crops or (VIDEO_CROPS if spec.task == "ucf101" else STILL_CROPS),
        max_length=asked.max_length,
        packing=asked.packing,
        gradient_checkpointing=_recompute(spec, world),
        gradient_checkpointing_forbidden=True if asked.gradient_checkpointing == "never" else None,
        offload_optimizer=asked.offload_optimizer == "always",
        precision=precision,
        attention=attention,
        seed=asked.seed,
    )


def _global_batch(spec: FineTuneJobSpec, row: Row, world: World, notes: list[str]) -> int:
    asked = spec.training
    if asked.global_batch_size is not None:
        return asked.global_batch_size
    unit = world.size * (asked.per_device_batch_size or 1)
    nearest = max(1, (row.batch + unit // 2) // unit) * unit
    if nearest != row.batch:
        notes.append(
            f"training.globalBatchSize is {nearest}, not the recipe's {row.batch}: the nearest number that "
            f"divides over {world.size} ranks x {asked.per_device_batch_size or 1}"
        )
    return nearest


def _micro_batch(spec: FineTuneJobSpec, world: World, rank_batch: int) -> int:
    """On CPU. On a GPU the smallest, unless `_fit` knows its memory."""
    if not spec.training.packing:
        return 1
    is_small = world.device == "cpu" and spec.model is not None and spec.model.init is not None
    largest = TINY_MICRO_BATCH if is_small else 1
    return max(size for size in range(1, largest + 1) if rank_batch % size == 0)


def _warmup(spec: FineTuneJobSpec, notes: list[str]) -> int:
    asked = spec.training
    if asked.warmup_steps is not None:
        return asked.warmup_steps
    if asked.max_steps is not None and asked.max_steps < 10 * FLAG_WARMUP:
        warmup = asked.max_steps // 10
        notes.append(
            f"training.warmupSteps is {warmup}, not the recipe's {FLAG_WARMUP}: a tenth of "
            f"{asked.max_steps} steps"
        )
        return warmup
    return FLAG_WARMUP


def _recompute(spec: FineTuneJobSpec, world: World) -> bool:
    """On CPU there is memory enough. On a GPU as the recipe does, always, unless `_fit` knows its memory."""
    asked = spec.training.gradient_checkpointing
    return world.device == "cuda" if asked == "auto" else asked == "always"


def _wish(asked: Literal["auto", "always", "never"]) -> bool | None:
    """None: to be chosen."""
    return None if asked == "auto" else asked == "always"


def _fit(train: TrainConfig, spec: FineTuneJobSpec, gpu: Gpu | None, notes: list[str]) -> Choice | None:
    """Choose batch of a pass and recomputation by the GPU's memory, as far as the job leaves them open."""
    asked, world = spec.training, train.world
    if world.device == "cpu":
        return None
    if gpu is None or gpu.memory is None:
        if asked.per_device_batch_size is None:
            notes.append("training.perDeviceBatchSize is 1: the memory of the GPU is not known")
        return None
    choice = choose(
        setup_of(train),
        gpu.memory,
        rank_batch=train.training.global_batch_size // world.size,
        micro_batch=asked.per_device_batch_size if asked.packing else 1,
        recompute=_wish(asked.gradient_checkpointing),
        offload=_wish(asked.offload_optimizer),
    )
    notes.append(f"{gpu.name}{'' if choice.fits else ' is too small'}: {choice.reason}")
    return choice


def _precision(spec: FineTuneJobSpec, world: World, gpu: Gpu | None, notes: list[str]) -> Precision:
    asked = spec.training.precision
    if asked != "auto":
        return asked
    if world.device == "cpu":
        return "fp32"
    if gpu is None or gpu.compute_capability is None:
        notes.append("training.precision is bf16: the GPU is not known, compute capability 8.0 is assumed")
        return "bf16"
    precision: Precision = "bf16" if gpu.compute_capability >= BF16_FROM else "fp16"
    notes.append(
        f"training.precision is {precision}: {_capability(gpu)}, and bf16 needs {version(BF16_FROM)}"
    )
    return precision


def _build(spec: FineTuneJobSpec, gpu: Gpu | None, offer: Offer | None, precision: Precision) -> Build | None:
    """The build for the GPU; none where nobody knows the GPU, or the job has its own image for it."""
    if offer is None or spec.resources.gpus_per_node == 0 or gpu is None or gpu.compute_capability is None:
        return None
    build = build_for(
        gpu.compute_capability, driver=offer.driver, is_bf16=precision == "bf16", builds=offer.builds
    )
    if build is not None or spec.image is not None:
        return build
    has = ", ".join(
        f"{one.name} ({', '.join(map(version, one.architectures))}; driver {one.driver} or newer)"
        for one in offer.builds
    )
    driver = f" and driver {offer.driver}" if offer.driver is not None else ""
    raise BlockedError(
        "NoImageForGPU",
        f"{_capability(gpu)}{driver}, and no image of the trainer is for that; there are {has or 'none'}. "
        "Newer GPUs (spec.resources.gpuProducts), a newer driver, an image of your own (spec.image), or the "
        "chart's value trainer.images help",
    )


def _attention(
    spec: FineTuneJobSpec,
    world: World,
    gpu: Gpu | None,
    precision: Precision,
    build: Build | None,
    notes: list[str],
) -> Attention:
    """The fastest that runs there: flash attention, or PyTorch's own; written out only where asked for."""
    asked = spec.training.attention
    if asked == "flash" and build is not None and asked not in build.attention:
        raise BlockedError(
            "UnsuitableGPU",
            f"spec.training.attention: the image of build {build.name}, the one for {_capability(gpu)}, has "
            "no flash attention; use auto or sdpa, or the chart's value trainer.images.flash",
        )
    if asked != "auto":
        return asked
    if world.device == "cpu" or gpu is None or gpu.compute_capability is None:
        return "sdpa"
    is_there = build is None or "flash" in build.attention
    is_flash = precision == "bf16" and gpu.compute_capability >= FLASH_FROM and is_there
    needs = f"flash needs bf16 and compute capability {version(FLASH_FROM)}"
    image = "" if is_there or build is None else f"; the image of build {build.name} has none"
    attention: Attention = "flash" if is_flash else "sdpa"
    notes.append(f"training.attention is {attention}: {_capability(gpu)} with {precision}, {needs}{image}")
    return attention


def _capability(gpu: Gpu | None) -> str:
    assert gpu is not None
    return f"{gpu.name} has compute capability {version(gpu.compute_capability or (0, 0))}"


def _checkpoint(spec: FineTuneJobSpec) -> Checkpoint:
    asked = spec.checkpoint
    minutes = asked.every_minutes
    if asked.every_steps is None and minutes is None:
        minutes = CHECKPOINT_MINUTES
    return Checkpoint(every_steps=asked.every_steps, every_minutes=minutes, keep=asked.keep)


def _evaluation(spec: FineTuneJobSpec, data: Data, notes: list[str]) -> Evaluation:
    asked = spec.evaluation
    is_possible = spec.task != "jsonl" or data.eval is not None
    if asked.enabled and not is_possible:
        notes.append("evaluation is off: there is no data.eval, the file of held-out samples")
    enabled = asked.enabled and is_possible
    return Evaluation(
        enabled=enabled, every_steps=asked.every_steps, max_samples=asked.max_samples, baseline=enabled
    )
