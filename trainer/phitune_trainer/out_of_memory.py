"""Where a GPU's memory is too small at run time, the next start takes fewer samples at a time, once; where it
is still too small, or there is only one, the next start recomputes activations.

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

from phitune_trainer.config import TrainConfig, Training
from phitune_trainer.errors import GpuTooSmall, OutOfGpuMemory
from phitune_trainer.plain_text import counted
from phitune_trainer.run_layout import RunLayout, write_atomically

_HALVED, _RECOMPUTED = 1, 2
"""Versions of the record. A release that only halves takes no notice of the second, which has `recompute`."""
_ADVICE = " If reserved but unallocated memory is large"
"""Where torch's message goes on with advice about its own settings."""


@dataclass(frozen=True)
class Fitted:
    """The config that a start trains with."""

    config: TrainConfig
    device: str
    """Rank 0's, with its memory: the same on all ranks, and on GPUs of another kind it is another."""
    why: str | None = None
    """Why it is not what was asked for; None where it is."""
    recomputes: bool = False
    """Whether activations are recomputed though that was not asked for."""
    trouble: str | None = None
    """Why what an earlier start has found cannot be used, if it cannot."""


def fit(layout: RunLayout, config: TrainConfig) -> Fitted:
    """The config, with less a pass or activations recomputed if earlier starts of this run ran out of memory.

    What was found for other devices, or for other choices that decide the memory, does not count.
    """
    device = device_of(config)
    if not layout.micro_batch.is_file():
        return Fitted(config, device)
    try:
        record = json.loads(layout.micro_batch.read_text(encoding="utf-8"))
        if record["version"] not in (_HALVED, _RECOMPUTED) or record["asked"] != _asked(config, device):
            return Fitted(config, device)
        recomputes = record.get("recompute", False)
        if recomputes and config.training.gradient_checkpointing_forbidden:
            return Fitted(config, device)
        training = _checked(record["microBatchSize"], recomputes, config)
    except (ValueError, KeyError, TypeError) as error:
        trouble = f"{layout.micro_batch} is damaged ({error}) and not used; remove it"
        return Fitted(config, device, trouble=trouble)
    return Fitted(
        config.model_copy(update={"training": training}),
        device,
        why=f"an earlier start ran out of memory with {_samples(config)} a pass; "
        f"this one {_changes(config.training, training)}",
        recomputes=recomputes,
    )


@contextmanager
def ending_out_of_memory(layout: RunLayout, asked: TrainConfig, fitted: Fitted) -> Iterator[None]:
    """Within this block a device that runs out of memory ends the start; the next one takes less at a time.

    Raises OutOfGpuMemory; GpuTooSmall, with torch's numbers, where there is nothing left to try.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        numbers = str(error).partition(_ADVICE)[0].rstrip(".")
        said = f"out of memory with {_samples(fitted.config)} a pass: {numbers}"
        half = None if _is_halved(asked, fitted) else _half(fitted.config)
        training = fitted.config.training
        if half is None and (training.gradient_checkpointing or training.gradient_checkpointing_forbidden):
            raise GpuTooSmall(f"{said}; {_remedy(asked, fitted)}") from error
        record = {
            "version": _RECOMPUTED if half is None else _HALVED,
            "asked": _asked(asked, fitted.device),
            "microBatchSize": half or training.micro_batch_size,
            **({"recompute": True} if half is None else {}),
            "because": numbers,
        }
        try:
            write_atomically(layout.micro_batch, json.dumps(record, indent=1))
        except OSError as trouble:
            raise OutOfGpuMemory(
                f"{said}; for the next start this could not be recorded: {trouble}"
            ) from error
        if half is None:
            raise OutOfGpuMemory(f"{said}; the next start recomputes activations") from error
        raise OutOfGpuMemory(f"{said}; the next start takes {half}, and as many samples a step") from error


def _is_halved(asked: TrainConfig, fitted: Fitted) -> bool:
    return fitted.config.training.micro_batch_size < asked.training.micro_batch_size


def _half(config: TrainConfig) -> int | None:
    """The largest micro-batch of at most half the size that divides a rank's share of a step."""
    share = config.training.global_batch_size // config.world.size
    sizes = range(config.training.samples_per_pass // 2, 0, -1)
    return next((size for size in sizes if share % size == 0), None)


def _checked(size: object, recomputes: object, config: TrainConfig) -> Training:
    """What a record says, as a start trains with it."""
    asked, share = config.training, config.training.global_batch_size // config.world.size
    if not isinstance(recomputes, bool):
        raise ValueError(f"recompute is {recomputes}")
    most = asked.micro_batch_size if recomputes else asked.micro_batch_size - 1
    if not isinstance(size, int) or not 0 < size <= most or share % size:
        raise ValueError(f"{size} samples a pass are no part of {asked.micro_batch_size}")
    again = recomputes or asked.gradient_checkpointing
    return asked.model_copy(update={"micro_batch_size": size, "gradient_checkpointing": again})


def _samples(config: TrainConfig) -> str:
    return counted(config.training.samples_per_pass, "sample")


def _changes(asked: Training, now: Training) -> str:
    """What a start does otherwise than was asked."""
    changes = []
    if now.micro_batch_size < asked.micro_batch_size:
        changes.append(f"takes {now.micro_batch_size}, and {now.global_batch_size} a step as before")
    if now.gradient_checkpointing and not asked.gradient_checkpointing:
        changes.append("recomputes activations")
    return ", and ".join(changes)


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


def _remedy(asked: TrainConfig, fitted: Fitted) -> str:
    is_recomputed = fitted.config.training.gradient_checkpointing
    tried = "it was halved before; " if _is_halved(asked, fitted) else ""
    tried += "activations are recomputed; " if is_recomputed else ""
    again = "" if is_recomputed else "training.gradientCheckpointing: always, "
    return (
        f"{tried}use GPUs with more memory, {again}a smaller training.maxLength or training.numCrops, or "
        "method lora or qlora"
    )
