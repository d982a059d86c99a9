"""Builders of small models and samples: a test shows only what it is about."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from phitune_trainer.init_model import random_weight
from phitune_trainer.model import Phi3V, Sample
from phitune_trainer.model.flash import why_not
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model_config import ModelConfig, VisionConfig, full_config, rope_factors

CROP = 28
"""Pixels of a crop: 2 x 2 patches, merged into one token."""


def small_config(*, original_max: int = 64, max_positions: int = 1024) -> ModelConfig:
    """A model of two layers whose sequences become long after `original_max` tokens."""
    return ModelConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        original_max_positions=original_max,
        max_positions=max_positions,
        **rope_factors(16),
        vision=VisionConfig(
            image_size=CROP, patch_size=14, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24
        ),
    )


def small_model(*, attention: str = "sdpa", seed: int = 0, **config: int) -> Phi3V:
    """A small model with random weights in float32; norms and biases are random too: each one counts."""
    model = Phi3V(small_config(**config), attention=attention)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in model.state_dict().items():
        noise = 0.1 * torch.randn(tensor.shape, generator=generator)
        weights[name] = random_weight(name, tensor.shape, seed) + noise
    model.load_state_dict(weights)
    return model


def published_positions_model() -> Phi3V:
    """One small layer with the published width of a head, border of 4096 tokens and longest context."""
    config = dataclasses.replace(
        full_config(),
        vocab_size=48,
        num_layers=1,
        num_heads=1,
        hidden_size=96,
        intermediate_size=32,
        vision=small_config().vision,
    )
    model = Phi3V(config)
    model.load_state_dict({name: random_weight(name, x.shape, 0) for name, x in model.state_dict().items()})
    return model


def picture(rows: int = 1, columns: int = 1, *, seed: int = 0) -> torch.Tensor:
    """A picture of rows x columns crops of noise, as the processor returns it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows * CROP, columns * CROP, 3), dtype=torch.uint8, generator=generator)


def sample(length: int, *, grids: Sequence[tuple[int, int]] = (), labels: int = 3, seed: int = 0) -> Sample:
    """Random text of `length` tokens, pictures near its beginning; the last `labels` tokens are trained."""
    vision = small_config().vision
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, 48, (length,), generator=generator).tolist()
    ids = text[:2]
    for number, grid in enumerate(grids, start=1):
        ids += [-number] * vision.image_tokens(*grid) + [1]
    ids += text[2:]
    trained = [IGNORED] * (len(ids) - labels) + ids[len(ids) - labels :]
    pictures = tuple(picture(*grid, seed=seed + number) for number, grid in enumerate(grids))
    return Sample(input_ids=torch.tensor(ids), labels=torch.tensor(trained), pictures=pictures)


def gradients(model: Phi3V) -> dict[str, torch.Tensor]:
    """The gradients of all parameters that have one, and forget them."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def gpu_with_flash() -> torch.device:
    """A GPU on which flash attention runs; skips the test without one."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    device = torch.device("cuda", 0)
    if reason := why_not(device, torch.bfloat16):
        pytest.skip(f"flash attention cannot run: {reason}")
    return device


def published_folder() -> Path:
    """The published tokenizer and configuration; skips the test where they are not at hand."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "phi-3.5-vision"
    folder = Path(os.environ.get("PHITUNE_TOKENIZER") or beside)
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"no published tokenizer in {folder}; name its folder in PHITUNE_TOKENIZER")
    return folder


def as_prompt(whole: Sample) -> Sample:
    """The sample without its trained tokens."""
    end = whole.num_tokens - whole.num_label_tokens
    return dataclasses.replace(
        whole, input_ids=whole.input_ids[:end], labels=torch.full((end,), IGNORED, dtype=torch.int64)
    )
