"""Whether a GPU can do what a job asks of it, and has the memory for it; if not, the fields to change.

Pure. Only what cannot run is refused: an estimate of memory that is near the edge is said in a note.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from phitune_operator.api import FineTuneJobSpec
from phitune_operator.blocked import BlockedError
from phitune_trainer.config import TrainConfig
from phitune_trainer.memory import FEWER_CROPS, Choice, Gpu, Remedy, content_of, gib, remedies

T = TypeVar("T")
D = TypeVar("D")
FLASH_FROM: Final = (8, 0)
"""Compute capability from which flash attention runs, in bf16 only."""
QLORA_FROM: Final = (7, 5)
"""Compute capability from which the recipe trains on 4-bit weights: Turing."""


def check_capability(spec: FineTuneJobSpec, gpu: Gpu | None) -> None:
    """Raise BlockedError (UnsuitableGPU) with each field that asks for more than the GPU can do.

    What a GPU of unknown compute capability can do is not doubted.
    """
    if gpu is None or gpu.compute_capability is None:
        return
    if problems := list(_beyond(spec, gpu.name, gpu.compute_capability)):
        raise BlockedError("UnsuitableGPU", "; ".join(problems))


def check_memory(train: TrainConfig, memory: Choice | None, gpu: Gpu) -> None:
    """Raise BlockedError (DoesNotFit) with numbers and remedies where no pass can fit in the GPU's memory.

    `memory` is what was chosen for `train`; None where nothing is known of the GPU's memory. A model that
    lies on the volume may be smaller than the published one, and is never refused.
    """
    if memory is None or train.model.path is not None:
        return
    # The user's own samples may have less in them than is expected.
    least = memory.least(content_of(train, num_crops=1 if train.task == "jsonl" else None)).total
    if least <= memory.memory:
        return
    found = [
        f"{remedy.change} (about {gib(remedy.estimate.total)} GiB)"
        for remedy in what_would_fit(train, memory, gpu)
    ]
    on_host = " and the optimizer on the host" if memory.setup.offload else ""
    by_fields = f"One of these alone would let it fit: {', '.join(found)}. " if found else ""
    raise BlockedError(
        "DoesNotFit",
        f"spec.resources: {gpu.name} has {gib(memory.memory)} GiB, and the smallest pass, of 1 sample with "
        f"activations recomputed{on_host}, takes about {gib(least)} GiB. {by_fields}Larger GPUs are another "
        "way (spec.resources.gpuProducts)",
    )


def what_would_fit(train: TrainConfig, memory: Choice, gpu: Gpu) -> list[Remedy]:
    """The changes, each of which would let `train`, whose choice is `memory`, fit and can run on that GPU."""
    found = remedies(memory, fewer_crops=content_of(train, num_crops=FEWER_CROPS))
    is_too_old = gpu.compute_capability is not None and gpu.compute_capability < QLORA_FROM
    return [remedy for remedy in found if not (remedy.setup.method == "qlora" and is_too_old)]


def version(capability: tuple[int, int]) -> str:
    """A compute capability as people write it."""
    return f"{capability[0]}.{capability[1]}"


def _beyond(spec: FineTuneJobSpec, name: str, capability: tuple[int, int]) -> Iterator[str]:
    has = f"and {name} has {version(capability)}"
    if spec.training.attention == "flash" and capability < FLASH_FROM:
        yield (
            f"spec.training.attention: flash needs compute capability {version(FLASH_FROM)}, {has}; "
            "use auto or sdpa, or newer GPUs (spec.resources.gpuProducts)"
        )
    if spec.method == "qlora" and capability < QLORA_FROM:
        yield (
            f"spec.method: qlora needs compute capability {version(QLORA_FROM)}, {has}; "
            "use lora, or newer GPUs (spec.resources.gpuProducts)"
        )


def first_that_will_do(options: Iterable[T], decide: Callable[[T], D], *, fits: Callable[[D], bool]) -> D:
    """What is decided for the first option in whose memory the job fits, or else for the first that may be.

    `options`: at least one, the best first. Raises BlockedError: why the very first will not do.
    """
    refusal: BlockedError | None = None
    tight: list[D] = []
    for option in options:
        try:
            decision = decide(option)
        except BlockedError as problem:
            refusal = refusal or problem
            continue
        if fits(decision):
            return decision
        tight.append(decision)
    if tight:
        return tight[0]
    assert refusal is not None
    raise refusal
