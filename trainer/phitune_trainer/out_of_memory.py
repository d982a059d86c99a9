"""Where a GPU's memory is too small at run time, the next start takes fewer samples at a time; once.

This start ends, rather than take the step again: the other ranks may be waiting in a collective for the one
whose memory ran out, and a new process has its memory in one piece. The restart continues from the last
checkpoint, as after any other fault.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import GpuTooSmall, OutOfGpuMemory
from phitune_trainer.run_layout import RunLayout, write_atomically

_VERSION = 1
_ADVICE = " If reserved but unallocated memory is large"
"""Where torch's message goes on with advice about its own settings."""


@dataclass(frozen=True)
class Fitted:
    """The config that a start trains with."""

    config: TrainConfig
    device: str
    """Rank 0's, with its memory: the same on all ranks, and on GPUs of another kind it is another."""
    why: str | None = None
    """Why its micro-batch is not the one that was asked for; None where it is."""
    trouble: str | None = None
    """Why what an earlier start has found cannot be used, if it cannot."""


def fit(layout: RunLayout, config: TrainConfig) -> Fitted:
    """The config, its micro-batch halved if an earlier start of this run has found it too large.

    What was found for other devices, or for other choices that decide the memory, does not count.
    """
    device = device_of(config)
    if not layout.micro_batch.is_file():
        return Fitted(config, device)
    try:
        record = json.loads(layout.micro_batch.read_text(encoding="utf-8"))
        if record["version"] != _VERSION or record["asked"] != _asked(config, device):
            return Fitted(config, device)
        size = _checked(record["microBatchSize"], config)
    except (ValueError, KeyError, TypeError) as error:
        trouble = f"{layout.micro_batch} is damaged ({error}) and not used; remove it"
        return Fitted(config, device, trouble=trouble)
    training = config.training.model_copy(update={"micro_batch_size": size})
    why = (
        f"an earlier start ran out of memory with {config.training.micro_batch_size} samples a pass; "
        f"this one takes {training.micro_batch_size}, and {training.global_batch_size} a step as before"
    )
    return Fitted(config.model_copy(update={"training": training}), device, why)


@contextmanager
def ending_out_of_memory(layout: RunLayout, asked: TrainConfig, fitted: Fitted) -> Iterator[None]:
    """Within this block a device that runs out of memory ends the start; the next one takes less at a time.

    Raises OutOfGpuMemory; GpuTooSmall, with torch's numbers, where it is halved already or cannot be.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        numbers = str(error).partition(_ADVICE)[0].rstrip(".")
        size, less = fitted.config.training.samples_per_pass, _half(fitted.config)
        said = f"out of memory with {size} sample{'s' if size > 1 else ''} a pass: {numbers}"
        if fitted.why is not None or less is None:
            raise GpuTooSmall(f"{said}; {_remedy(fitted)}") from error
        record = {
            "version": _VERSION,
            "asked": _asked(asked, fitted.device),
            "microBatchSize": less,
            "because": numbers,
        }
        try:
            write_atomically(layout.micro_batch, json.dumps(record, indent=1))
        except OSError as trouble:
            raise OutOfGpuMemory(
                f"{said}; for the next start this could not be recorded: {trouble}"
            ) from error
        raise OutOfGpuMemory(f"{said}; the next start takes {less}, and as many samples a step") from error


def _half(config: TrainConfig) -> int | None:
    """The largest micro-batch of at most half the size that divides a rank's share of a step."""
    share = config.training.global_batch_size // config.world.size
    sizes = range(config.training.samples_per_pass // 2, 0, -1)
    return next((size for size in sizes if share % size == 0), None)


def _checked(size: object, config: TrainConfig) -> int:
    share = config.training.global_batch_size // config.world.size
    if not isinstance(size, int) or not 0 < size < config.training.micro_batch_size or share % size:
        raise ValueError(f"{size} samples a pass are no part of {config.training.micro_batch_size}")
    return size


def device_of(config: TrainConfig) -> str:
    """The device of this process, in words that differ where its memory does."""
    if config.world.device == "cpu":
        return "cpu"
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name}, {properties.total_memory} bytes"


def _asked(config: TrainConfig, device: str) -> dict[str, Any]:
    """What decides how much memory a pass takes and may take, of what a later start may change."""
    training = config.training.model_dump(mode="json", by_alias=True)
    names = ("microBatchSize", "packing", "gradientCheckpointing", "attention", "offloadOptimizer")
    world = config.world.model_dump(mode="json", by_alias=True)
    return {"world": world, "device": device, **{name: training[name] for name in names}}


def _remedy(fitted: Fitted) -> str:
    halved = "it was halved before; " if fitted.why is not None else ""
    return (
        f"{halved}use GPUs with more memory, training.gradientCheckpointing, a smaller training.maxLength or "
        "training.numCrops, or method lora or qlora"
    )
