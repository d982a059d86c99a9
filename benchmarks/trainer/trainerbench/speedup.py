"""A step of ours against a step of the recipe's way, in turn, on the same weights and the same pages."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from phitune_trainer.engine import Engine
from phitune_trainer.model import Batch, Phi3V, Sample, collate
from phitune_trainer.model.attention import Kernel
from phitune_trainer.model_config import ModelConfig, full_config, rope_factors
from trainerbench.docvqa import NUM_CROPS
from trainerbench.recipes_way import recipes_loss

_LEARNING_RATE = 1e-6
"""So low that the weights are the same for both ways."""


@dataclass(frozen=True)
class Way:
    """One way to train some samples in one optimizer step."""

    passes: list[Callable[[], Tensor]]
    """Each computes the summed loss of its part."""
    num_labels: int


def our_way(model: Phi3V, passes: Sequence[Sequence[Sample]]) -> Way:
    """Samples packed into rows, one for each pass."""
    longest = model.model_config.original_max_positions
    batches = [collate(samples, original_max_positions=longest) for samples in passes]
    return Way(
        [partial(_our_loss, model, batch) for batch in batches],
        sum(batch.num_label_tokens for batch in batches),
    )


def recipes_way(model: Phi3V, samples: Sequence[Sample], *, kernel: Kernel) -> Way:
    """A pass for each sample."""
    return Way(
        [partial(recipes_loss, model, sample, num_crops=NUM_CROPS, kernel=kernel) for sample in samples],
        sum(sample.num_label_tokens for sample in samples),
    )


def take_step(engine: Engine, way: Way) -> None:
    """An optimizer step."""
    shares = []
    for number, loss in enumerate(way.passes, start=1):
        share = loss() / way.num_labels
        engine.backward(share, is_last=number == len(way.passes))
        shares.append(share.detach())
    engine.step(_LEARNING_RATE, torch.stack(shares).sum())


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """How long a step takes, until the device is done."""
    _wait_for(device)
    began = time.perf_counter()
    step()
    _wait_for(device)
    return time.perf_counter() - began


def rounds(engine: Engine, ways: Sequence[Way], device: torch.device, *, count: int) -> list[list[float]]:
    """Seconds of a step of each way, in turn, for each round; one before them warms up."""
    times = [[seconds_of(partial(take_step, engine, way), device) for way in ways] for _ in range(count + 1)]
    return times[1:]


def check_same_loss(ours: Way, recipes: Way, *, tolerance: float) -> None:
    """Both ways must have the same samples, and compute the same. AssertionError with the two losses."""
    assert ours.num_labels == recipes.num_labels
    with torch.no_grad():
        losses = [sum(float(loss()) for loss in way.passes) / way.num_labels for way in (ours, recipes)]
    assert abs(losses[0] - losses[1]) <= tolerance * losses[1], f"the losses differ: {losses}"


def small_config(divisor: int) -> ModelConfig:
    """The published proportions of widths, layers, heads and vocabulary; a page keeps its tokens."""
    full = full_config()
    vision = replace(
        full.vision,
        hidden_size=full.vision.hidden_size // divisor,
        num_layers=full.vision.num_layers // divisor,
        num_heads=full.vision.num_heads // divisor,
        intermediate_size=full.vision.intermediate_size // divisor,
    )
    return replace(
        full,
        vocab_size=full.vocab_size // divisor,
        hidden_size=full.hidden_size // divisor,
        intermediate_size=full.intermediate_size // divisor,
        num_layers=full.num_layers // divisor,
        num_heads=full.num_heads // divisor,
        vision=vision,
        **rope_factors(full.head_dim),
    )


def _our_loss(model: Phi3V, batch: Batch) -> Tensor:
    loss: Tensor = model(batch.to(model.lm_head.weight.device))
    return loss


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
