"""What the operator says about a FineTuneJob. A field that is missing here, the API server would drop.

Every field is absent until it is known. Numbers stay numbers; `summary` holds them once more as text, for the
columns of `kubectl get`.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from phitune_operator.fields import Group, keyed

Phase = Literal[
    "Pending",
    "Preparing",
    "Queued",
    "Running",
    "Evaluating",
    "Restarting",
    "Suspended",
    "Succeeded",
    "Failed",
]

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Condition(Group):
    """One claim about the job, with the reason."""

    type: str
    """What is claimed, such as Accepted, Prepared, Running, Succeeded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, as one CamelCase word."""
    message: str
    """Why, in a sentence, with the remedy where there is one."""
    observed_generation: int | None = None
    """Generation of the spec that this was said of."""
    last_transition_time: Time
    """When status last changed."""


class Placement(Group):
    """Where and how the job runs, and why so."""

    product: str | None = None
    """GPU product, as nodes are labelled with it; CPU without GPUs."""
    node_labels: list[str] | None = None
    """Selectors of labels, of which a node must match one."""
    resource: str | None = None
    """Resource by which pods get GPUs, where it is not nvidia.com/gpu: slices, or shares of a GPU."""
    pool: str | None = None
    """Pool of the operator's settings that grows for the job."""
    network_profile: str | None = None
    """Product of the network profile that the pods get."""
    cpu: str | None = None
    """CPUs that each pod requests where spec.resources.cpu says nothing."""
    memory: str | None = None
    """Memory of each pod where spec.resources.memory says nothing."""
    compute_capability: str | None = None
    """Compute capability of the GPU, such as 9.0."""
    image: str | None = None
    """Trainer image, pinned at the first attempt; spec.image goes before it."""
    default_image: str | None = None
    """Trainer image that the operator chose, or first got, where spec.image names another one."""
    backend: str | None = None
    """Kind of object that runs the gangs, pinned at the first attempt."""
    build: str | None = None
    """Build of the trainer that the image is, where the operator chose it."""
    attention: str | None = None
    """Implementation of attention."""
    precision: str | None = None
    """Number format of the computation."""
    global_batch_size: int | None = None
    """Samples of one optimizer step over all ranks."""
    micro_batch_size: int | None = None
    """Samples of one forward pass on one device."""
    gradient_checkpointing: bool | None = None
    """Whether activations are recomputed."""
    estimated_memory: str | None = None
    """Estimated peak of each device's memory, such as 39Gi."""
    available_memory: str | None = None
    """Memory of each device, such as 80Gi."""
    reason: str | None = None
    """Why this placement, in words."""
    notes: list[str] | None = None
    """What was filled in or adjusted for the user, a sentence each."""


class CheckpointStatus(Group):
    """A complete checkpoint."""

    step: int
    """Optimizer steps done in it."""
    path: str
    """Its folder, relative to the volume's root."""
    time: Time
    """When it was complete."""


class Progress(Group):
    """How far the training is, as rank 0 last said."""

    state: str | None = None
    """What the trainer does: loading, baseline, training, evaluating, saving, done."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps of the whole run."""
    percent: float | None = None
    """Share of the steps done, from 0 to 100."""
    epoch: float | None = None
    """Passes over the training samples done, with fraction."""
    loss: float | None = None
    """Mean cross entropy of the trained tokens of the last steps, in nats."""
    learning_rate: float | None = None
    """Learning rate of the last step."""
    images_per_second: float | None = None
    """Pictures trained on in a second, over all ranks."""
    tokens_per_second: float | None = None
    """Tokens trained on in a second, over all ranks, image tokens included."""
    mfu: float | None = None
    """Share of the devices' peak FLOPs that the model's arithmetic uses, from 0 to 1."""
    eta: str | None = None
    """Time until the last step, such as 4m10s."""
    updated_at: Time | None = None
    """When rank 0 said so."""


class EvaluationStatus(Group):
    """The newest score on held-out samples."""

    metric: str
    """Name of the score, such as exactMatch, anls, accuracy."""
    value: float
    """The score, from 0 to 1."""
    baseline: float | None = None
    """Score of the base model before training."""
    samples: int
    """Held-out samples that were scored."""
    step: int | None = None
    """Optimizer steps done when it was taken."""


class Artifacts(Group):
    """Where the results lie on the volume, relative to its root."""

    claim: str | None = None
    """PersistentVolumeClaim that holds them."""
    run: str | None = None
    """Folder of the run."""
    merged: str | None = None
    """Whole weights under their published names."""
    adapter: str | None = None
    """Adapters in PEFT's layout."""
    report: str | None = None
    """The report."""


class Prepared(Group):
    """What the job's prepare Job has put on the volume, or found there, so that other jobs need none."""

    key: str
    """Hash of the volume's claim and of all that says what is needed on it."""
    at: Time
    """When it was done."""


class Failure(Group):
    """Why the last attempt ended badly."""

    pod: str | None = None
    """Pod that failed first."""
    node: str | None = None
    """Node that it ran on."""
    attempt: int | None = None
    """Attempt that it belonged to."""
    exit_code: int | None = None
    """Exit code of its container."""
    reason: str | None = None
    """What kind of failure, as one CamelCase word."""
    message: str | None = None
    """What happened, in a sentence."""
    remedy: str | None = None
    """What would help, in a sentence."""
    last_lines: list[str] | None = None
    """Last lines of its log."""


class Disruptions(Group):
    """How often the gang was taken away before it saved something newer; each makes the pause longer."""

    count: int
    """Disruptions in a row."""
    checkpoint_step: int
    """Optimizer steps done in the newest checkpoint at the last of them; 0 if there was none."""


class Summary(Group):
    """The columns of `kubectl get`, as text."""

    gpus: str | None = None
    """Nodes and devices of each, such as 2x8 or 2x1 CPU."""
    progress: str | None = None
    """Steps and share, such as 120/400 (30%)."""
    eta: str | None = None
    """Time until the last step, such as 4m10s."""
    loss: str | None = None
    """Loss, such as 0.3127."""
    score: str | None = None
    """Score, such as 0.964."""
    images_per_second: str | None = None
    """Pictures trained on in a second, such as 31.7."""
    mfu: str | None = None
    """Model FLOPs utilisation, such as 51%."""
    last_checkpoint: str | None = None
    """Newest complete checkpoint, such as step 200."""


class Status(Group):
    """What the operator observed."""

    # An operator of another version may have written more than this one knows.
    model_config = ConfigDict(extra="ignore")

    phase: Phase | None = None
    """Where the job is in its life."""
    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    conditions: list[Condition] | None = Field(default=None, json_schema_extra=keyed("type"))
    """Claims about the job, each with its reason."""
    placement: Placement | None = None
    """Where and how the job runs, and why so."""
    attempt: int | None = None
    """Number of the current gang, from 1; 0 before the first."""
    restarts: int | None = None
    """Gangs started after the first one."""
    restarts_counted: int | None = None
    """Restarts after the job's own faults, which runPolicy.restartLimit bounds."""
    disruptions: Disruptions | None = None
    """Disruptions since the newest checkpoint."""
    prepared: Prepared | None = None
    """What the job has prepared; other jobs on its volume that need the same go without."""
    progress: Progress | None = None
    """How far the training is."""
    last_checkpoint: CheckpointStatus | None = None
    """Newest complete checkpoint."""
    evaluation: EvaluationStatus | None = None
    """Newest score on held-out samples."""
    artifacts: Artifacts | None = None
    """Where the results lie."""
    failure: Failure | None = None
    """Why the last attempt ended badly."""
    summary: Summary | None = None
    """The columns of kubectl get."""
    start_time: Time | None = None
    """When the first gang was created; with a queue, admitted; with the scheduler's gangs, placed."""
    completion_time: Time | None = None
    """When the job succeeded or failed."""
