"""The API: what a FineTuneJob may say. The CRD, its reference page and `phitune render` all come from here.

A default that does not depend on other fields stands here. One that does is None here, and is filled in by
`defaults.resolve`; the description says what it will be. "Recipe" is Microsoft's published fine-tuning recipe
for this model; "not published" marks what it does not state.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from phitune_operator import names
from phitune_operator.api_affinity import Affinity, NodeAffinity
from phitune_operator.api_status import Status
from phitune_operator.fields import (
    DNS_LABEL,
    ENV_NAME,
    ENV_VALUE,
    AnnotationValue,
    Bytes,
    Cpu,
    Duration,
    Group,
    HubName,
    Image,
    LabelKey,
    Labels,
    LabelValue,
    ObjectName,
    RelativePath,
    keyed,
)
from phitune_trainer.config import Method, Schedule, Task

DEFAULT_MODEL = "microsoft/Phi-3.5-vision-instruct"


class ModelSpec(Group):
    """Base model that is fine-tuned: at most one of name, path and init. Default: name
    microsoft/Phi-3.5-vision-instruct. Cannot be changed after creation.
    """

    name: HubName | None = None
    """Id of the model on the hub. Default where neither path nor init is given:
    microsoft/Phi-3.5-vision-instruct."""
    path: RelativePath | None = None
    """Folder on the volume that holds the model under its published file names, relative to the volume's
    root. Default: none."""
    revision: HubName | None = None
    """Branch, tag or commit on the hub; only with name. Default: main."""
    token_secret: ObjectName | None = None
    """Name of a Secret in the job's namespace whose key `HF_TOKEN` holds the hub's token; not with path
    or init. Only the pod that fetches sees it, never the training pods. Default: none."""
    init: Literal["tiny"] | None = None
    """Size of a base model with random weights, made on the volume: tiny has two layers and trains on a CPU.
    Default: none."""


class DataSpec(Group):
    """Data that the model is trained and scored on. Default: the data set of the task; task jsonl needs path
    or generate. Cannot be changed after creation.
    """

    path: RelativePath | None = None
    """Folder of the data on the volume, relative to the volume's root. Default: none."""
    train: RelativePath | None = None
    """Training samples: for task jsonl a file in the data folder, else a split of the data set (docvqa: full
    or mini; others: train). Default: train.jsonl for jsonl, else the training split of the recipe."""
    eval: RelativePath | None = None
    """Held-out samples: for task jsonl a file in the data folder, else a split of the data set (docvqa: test;
    nlvr2, hatefulMemes: heldOut; ucf101: val or test). Default: for jsonl none, and then nothing is scored;
    else the recipe's held-out split."""
    image_root: RelativePath | None = None
    """Folder that the pictures' paths start from, relative to the data folder. Default: images."""
    generate: Literal["digits"] | None = None
    """A data set made on the volume without a download; only with task jsonl, and without the fields above:
    digits is scikit-learn's handwritten digits, some held out. Default: none."""
    name: HubName | None = None
    """Id of the data set on the hub; not with task jsonl. Default: the recipe's data set of the task."""
    revision: HubName | None = None
    """Branch, tag or commit on the hub; only with name. Default: main."""
    token_secret: ObjectName | None = None
    """Name of a Secret in the job's namespace whose key `HF_TOKEN` holds the hub's token for the data; not
    with path or generate. Default: that of the model, if it has one."""


class LoraSpec(Group):
    """Low-rank adapters; only with method lora or qlora. Cannot be changed after creation."""

    rank: int | None = Field(default=None, ge=1, le=1024)
    """Width of the two adapter matrices. Default: the recipe's row (docvqa 32, hatefulMemes 128), else the
    recipe's flag default 64."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Strength: the update is multiplied by alpha / rank. Default: the recipe's row (docvqa 16, hatefulMemes
    256), else twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is set to zero in training, from 0 to below 1. Default: 0."""
    vision: bool | None = None
    """Whether CLIP and the projector get adapters. Default: true unless freezeVision, as in the recipe."""


class TrainingSpec(Group):
    """How the weights are trained. Cannot be changed after creation."""

    epochs: int | None = Field(default=None, ge=1, le=10_000)
    """Passes over the training samples; not with maxSteps. Default: the recipe's row for task, method and
    freezeVision (1 to 3), else the recipe's flag default 1."""
    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Optimizer steps; not with epochs. Default: none, epochs counts."""
    global_batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """Samples of one optimizer step over all ranks (docvqa: pages). A number given here must divide over
    ranks x perDeviceBatchSize. Default: the recipe's row (64), else the recipe's flag default 16; then the
    nearest number that divides is taken."""
    per_device_batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Samples of one forward pass on one device; does not change the result. Default: chosen from the
    device's memory."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak of the learning rate. Default: the recipe's row for task, method and freezeVision, else the
    recipe's flag default 4e-5."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Weight decay of AdamW, not applied to biases and norms. Default: 0.01 (recipe)."""
    warmup_steps: int | None = Field(default=None, ge=0, le=1_000_000)
    """Optimizer steps in which the learning rate rises from 0 to its peak. Default: 50 (recipe), but no more
    than a tenth of the run where the number of steps is known."""
    schedule: Schedule = "linear"
    """How the learning rate falls after the warm-up, to 0 at the last step. Default: linear (recipe)."""
    num_crops: int | None = Field(default=None, ge=1, le=16)
    """Most high-resolution crops of a picture; the global view is one more. Default: 16 for stills, 4 for
    the video frames of ucf101 (recipe)."""
    max_length: int = Field(default=8192, ge=16, le=131_072)
    """Tokens of a sample, image tokens included; a longer sample is left out and counted, never cut. Default:
    8192 (not published)."""
    packing: bool = True
    """Lay the samples of a pass in one row, without attention between them and without padding; false: every
    sample is a pass of its own. Does not change the result. Default: true."""
    gradient_checkpointing: Literal["auto", "always", "never"] = "auto"
    """Recompute activations in the backward pass, which saves memory and costs time. Default: auto, only
    where memory demands it (recipe: always)."""
    offload_optimizer: Literal["auto", "always", "never"] = "auto"
    """Keep the optimizer's state, and take its step, in the memory of the node, which saves GPU memory and
    costs time; with method full on GPUs. Default: auto, only where nothing else fits."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the computation. Default: auto, which is bf16 from compute capability 8.0, fp16 on
    older GPUs, fp32 on CPU."""
    attention: Literal["auto", "flash", "sdpa", "eager"] = "auto"
    """Implementation of attention; flash needs a GPU of compute capability 8.0 and bf16. Default: auto, the
    fastest that the device and the image have."""
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    """Seed of weights made here, of adapters, dropout and the order of the samples. Default: 42 (not
    published)."""


class Toleration(Group):
    """Lets pods run on nodes with a matching taint."""

    key: LabelKey | None = None
    """Key of the taint. Default: every key, with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint; only with operator Equal. Default: the empty value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: every effect."""
    toleration_seconds: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Seconds that a pod stays after a NoExecute taint appears; only with effect NoExecute. Default: for
    ever."""


class ResourcesSpec(Group):
    """Size and place of the gang of pods."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Pods that train together, each on a node of its own where they have GPUs. Default: 1. Cannot be
    changed."""
    gpus_per_node: int = Field(default=1, ge=0, le=16)
    """GPUs of each pod, and as many processes; 0 trains on the CPU. Default: 1. Cannot be changed."""
    processes_per_node: int | None = Field(default=None, ge=1, le=64)
    """Processes of each pod; only with gpusPerNode 0. Default: 1 on CPU, else one for each GPU.
    Cannot be changed."""
    gpu_products: list[LabelValue] | None = Field(default=None, min_length=1, max_length=16)
    """GPU products that may be used, best first: as nodes are labelled (nvidia.com/gpu.product, or a cloud's
    name), or short names such as A100-80GB. Default: chosen by the operator. Cannot be changed."""
    cpu: Cpu | None = None
    """CPUs that each pod requests (it may use more). Default: 4 for each GPU, or less where nodes have less
    for each; 1 for each process on CPU (not published)."""
    memory: Bytes | None = None
    """Memory of each pod, in bytes with a suffix such as Gi; request and limit. Default: 64Gi for each GPU
    and what an offloaded optimizer takes, or less where nodes have less for each; 3Gi for each process on CPU
    (not published)."""
    shared_memory: Bytes | None = None
    """Size of /dev/shm in each pod, in bytes with a suffix such as Gi; part of its memory. Default: 8Gi for
    each GPU, 256Mi for each process on CPU (not published)."""
    tolerations: list[Toleration] | None = Field(default=None, max_length=32)
    """Taints that the pods tolerate. Default: none beyond the cluster's own."""
    node_selector: Annotated[Labels | None, Field(max_length=32)] = None
    """Labels that a node must have. Default: none."""
    priority_class_name: ObjectName | None = None
    """Name of the pods' PriorityClass, none of the system's own. Default: the cluster's."""


class StorageSpec(Group):
    """The volume of model, data, checkpoints and results: exactly one of claimName and size."""

    claim_name: ObjectName | None = None
    """Name of an existing PersistentVolumeClaim in the job's namespace; ReadWriteMany where nodes is above 1.
    Default: none, a claim of the given size is made."""
    size: Bytes | None = None
    """Size of the claim that is made for the job, in bytes with a suffix such as Gi. Default: none, claimName
    is used."""
    storage_class_name: ObjectName | None = None
    """Storage class of the claim that is made; only with size. Default: the cluster's."""
    retain: bool = True
    """Whether the claim that was made stays when the job is deleted. Default: true, so that deleting a job
    never deletes weights."""


class CheckpointSpec(Group):
    """When the state is saved, so that training goes on after a fault."""

    every_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Optimizer steps between two checkpoints; not with everyMinutes. Default: none, everyMinutes counts."""
    every_minutes: float | None = Field(default=None, gt=0, le=10_080)
    """Minutes between two checkpoints; not with everySteps. Default: 15 (not published)."""
    keep: int = Field(default=2, ge=1, le=1000)
    """Checkpoints that are kept; older ones are removed. Default: 2 (not published)."""


class EvaluationSpec(Group):
    """Scores on held-out samples, before training and at its end."""

    enabled: bool = True
    """Whether held-out samples are answered and scored. Default: true."""
    every_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Optimizer steps between two evaluations while training. Default: none in between."""
    max_samples: int | None = Field(default=None, ge=1, le=10_000_000)
    """Held-out samples that are used, the first ones. Default: all."""


class ExportSpec(Group):
    """What is written under export/ at the end."""

    merged: bool = True
    """Whether whole weights are written, adapters merged in, under their published names. Default: true."""
    adapter: bool | None = None
    """Whether the adapters alone are written, in PEFT's layout; not with method full. Default: true with lora
    and qlora."""


class RunPolicySpec(Group):
    """How long and how often the job may run."""

    suspend: bool = False
    """Stops the pods and keeps the last checkpoint; false lets the job go on from it. Default: false."""
    restart_limit: int = Field(default=3, ge=0, le=1000)
    """Restarts of the gang after its own faults; evictions, preemptions and lost nodes do not count. Default:
    3."""
    stall_timeout: Duration = "40m"
    """Time without a sign of life from a gang that runs, after which it is restarted; the restart counts. A
    sign of life is a step, a scored sample, a part of a checkpoint or of the export. Default: 40m, more than
    the 30m after which ranks themselves name one that hangs."""
    active_deadline: Duration | None = None
    """Time from the first start after which the job fails, such as "12h". Default: none."""
    ttl_after_finished: Duration | None = None
    """Time after the end at which the job is deleted, such as "24h"; its volume stays if retained. Default:
    never."""


class LocalObjectReference(Group):
    """An object of the job's namespace."""

    name: ObjectName
    """Name of the object."""


class EnvVar(Group):
    """A variable of the training pods' environment."""

    name: str = Field(min_length=1, max_length=128, pattern=ENV_NAME)
    """Name of the variable. Names beginning with PET_ or PHITUNE_ are the operator's."""
    value: str = Field(default="", max_length=8192, pattern=ENV_VALUE)
    """Value of the variable, in plain text. Default: empty."""


class PodTemplateSpec(Group):
    """The parts of the job's pods that may be set beyond the fields above; for pods that are yet to come."""

    annotations: dict[LabelKey, AnnotationValue] | None = Field(default=None, max_length=64)
    """Annotations of the pods, but none that takes a container out of AppArmor or seccomp. Default: none."""
    labels: Labels | None = None
    """Labels of the pods, but none by which operators and controllers find theirs: those of phitune.dev,
    training.kubeflow.org, batch.kubernetes.io, JobSet and Kueue, job-name, controller-uid,
    app.kubernetes.io/name and app.kubernetes.io/managed-by. Default: none."""
    affinity: Affinity | None = None
    """Where the pods may and should run, beside what the operator asks for. Default: the operator's."""
    tolerations: list[Toleration] | None = Field(default=None, max_length=32)
    """Taints that the pods tolerate, beside resources.tolerations. Default: none."""
    scheduler_name: ObjectName | None = None
    """Scheduler that places the pods. Default: the cluster's."""


class FineTuneJobSpec(Group):
    """What is fine-tuned, on what, how and where."""

    model: ModelSpec | None = None
    """Base model. Default: microsoft/Phi-3.5-vision-instruct from the hub. Cannot be changed."""
    task: Task
    """What is learnt: one of the recipe's tasks, or jsonl for own data. Cannot be changed."""
    data: DataSpec | None = None
    """Where the samples lie. Default: the data set of the task; jsonl has none. Cannot be changed."""
    method: Method
    """What is trained: full (all weights), lora (adapters), qlora (adapters on a 4-bit base). Cannot be
    changed."""
    freeze_vision: bool = False
    """Leave CLIP and the projector as they are. Default: false. Cannot be changed."""
    lora: LoraSpec | None = None
    """Settings of the adapters, with method lora or qlora. Default: as each field says. Cannot be changed."""
    training: TrainingSpec = TrainingSpec()
    """Hyperparameters. Default: as each field says. Cannot be changed."""
    resources: ResourcesSpec = ResourcesSpec()
    """Nodes, GPUs, CPU and memory. Default: one node with one GPU."""
    storage: StorageSpec
    """Volume of model, data, checkpoints and results. Cannot be changed."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Checkpoints. Default: every 15 minutes, the last 2 kept. Cannot be changed."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Scores on held-out samples. Default: before training and at its end. Cannot be changed."""
    export: ExportSpec = ExportSpec()
    """Results. Default: the whole weights, and the adapters with lora and qlora. Cannot be changed."""
    run_policy: RunPolicySpec = RunPolicySpec()
    """Suspension, restarts, deadlines, clean-up. Default: as each field says."""
    queue_name: ObjectName | None = None
    """Name of the Kueue LocalQueue that admits the job. Default: none, the job starts at once."""
    image: Image | None = None
    """Trainer image, instead of the one that the operator chooses. Default: chosen by the operator."""
    image_pull_secrets: list[LocalObjectReference] | None = Field(
        default=None, max_length=16, json_schema_extra=keyed("name")
    )
    """Secrets of the job's namespace that pull the image. Default: none."""
    env: list[EnvVar] | None = Field(default=None, max_length=64, json_schema_extra=keyed("name"))
    """Variables added to the training pods' environment. Default: none."""
    pod_template: PodTemplateSpec | None = None
    """Annotations, labels, affinity, tolerations and scheduler of the job's pods. Default: none."""
    resume_from: RelativePath | None = None
    """Folder of another run, or of one of its checkpoints, relative to the volume's root: training starts
    with the weights and adapters from there, and with a fresh optimizer and schedule. Default: none, training
    starts from the base model. Cannot be changed."""

    @property
    def node_affinity(self) -> NodeAffinity | None:
        """To which nodes the pods go."""
        affinity = self.pod_template.affinity if self.pod_template else None
        return affinity.node_affinity if affinity else None

    @property
    def tolerations(self) -> list[Toleration]:
        """The taints that the pods tolerate, wherever the job names them."""
        of_template = self.pod_template.tolerations if self.pod_template else None
        return [*(self.resources.tolerations or []), *(of_template or [])]


class Metadata(Group):
    """The part of an object's metadata that people write, and what the API server adds."""

    name: str = Field(min_length=1, max_length=names.MAX_JOB_NAME, pattern=names.JOB_NAME_PATTERN)
    namespace: str | None = Field(default=None, max_length=63, pattern=DNS_LABEL)
    labels: dict[LabelKey, LabelValue] | None = None
    annotations: dict[LabelKey, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[dict[str, Any]] | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    generate_name: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    managed_fields: list[dict[str, Any]] | None = None
    self_link: str | None = None


class FineTuneJob(Group):
    """Fine-tunes Phi-3.5-vision on the cluster's GPUs: one node or many, resumable, result on a volume."""

    api_version: Literal["phitune.dev/v1alpha1"]
    kind: Literal["FineTuneJob"]
    metadata: Metadata
    spec: FineTuneJobSpec
    """What is fine-tuned, on what, how and where."""
    status: Status | None = None
    """What the operator observed; written by the operator alone."""
