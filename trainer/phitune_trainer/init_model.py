"""A base model with random weights: a model folder like the published one, without a download."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from phitune_trainer.folders import building, is_filled
from phitune_trainer.model import ModelConfig, Phi3V, VisionConfig
from phitune_trainer.model.pixels import CLIP_MEAN, CLIP_STD
from phitune_trainer.model.save import ignore, write_shards
from phitune_trainer.tokenizer import build_tokenizer, write_json, write_tokenizer


def init_model(
    size: str,
    out: Path,
    seed: int,
    *,
    replace: bool = False,
    on_written: Callable[[Path], None] = ignore,
) -> None:
    """Make a model folder: weights, configuration, tokenizer, processor.

    `size` is "tiny" or "full": tiny learns the digits in seconds on a CPU, full has the published shapes
    (8.3 GB, written a file at a time). The same size and seed make the same bytes. A folder that holds
    anything is left as it is, unless it is to be replaced; a half-written one is never seen under its name.
    `on_written` is told of each file of weights.
    """
    if is_filled(out) and not replace:
        return
    make_config, dtype = _SIZES[size]
    config = make_config()
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Phi3V(config).state_dict().items()}
    sizes = {name: shape.numel() * dtype.itemsize for name, shape in shapes.items()}
    with building(out, replace=replace) as folder:
        _write_settings(folder, config, str(dtype).removeprefix("torch."))
        write_shards(
            folder,
            sizes,
            lambda name: random_weight(name, shapes[name], seed).to(dtype),
            on_written=on_written,
        )


class RopeFactors(TypedDict):
    """The two lists of rotary factors, by their names in ModelConfig."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]


def tiny_config() -> ModelConfig:
    """Two text layers, two picture layers that run, crops of 84 pixels."""
    hidden_size, num_heads = 128, 4
    return ModelConfig(
        vocab_size=1024,
        hidden_size=hidden_size,
        intermediate_size=256,
        num_layers=2,
        num_heads=num_heads,
        **rope_factors(hidden_size // num_heads),
        vision=VisionConfig(
            image_size=84, patch_size=14, hidden_size=64, num_layers=3, num_heads=4, intermediate_size=128
        ),
    )


def full_config() -> ModelConfig:
    """The published sizes. The rotary factors are of the published kind, not the published numbers."""
    return ModelConfig(**rope_factors(96))


def rope_factors(head_dim: int) -> RopeFactors:
    """Rotary factors that rise from 1: to 2 for short sequences, to 32 for long ones."""
    rise = [number / max(1, head_dim // 2 - 1) for number in range(head_dim // 2)]
    return {
        "short_factor": tuple(round(2.0**x, 4) for x in rise),
        "long_factor": tuple(round(32.0**x, 4) for x in rise),
    }


_SIZES: dict[str, tuple[Callable[[], ModelConfig], torch.dtype]] = {
    "tiny": (tiny_config, torch.float32),
    "full": (full_config, torch.bfloat16),
}


def random_weight(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The first value of one weight, float32: it depends on its name, its shape and the seed alone.

    Norms are the identity, biases zero, embeddings and separators small; matrices keep the size of what they
    map.
    """
    if "norm" in name or "layrnorm" in name or name.endswith(".bias"):
        is_one = name.endswith(".weight")
        return torch.ones(shape) if is_one else torch.zeros(shape)
    is_matrix = (
        name.endswith(".weight") and "embed_tokens.weight" not in name and "position_embedding" not in name
    )
    deviation = 1 / math.sqrt(math.prod(shape[1:])) if is_matrix else 0.02
    source = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    values = np.random.Generator(source).standard_normal(tuple(shape), dtype=np.float32)
    values *= np.float32(deviation)
    return torch.from_numpy(values)


def _write_settings(folder: Path, config: ModelConfig, dtype: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab_size() <= config.vocab_size
    write_tokenizer(folder, tokenizer)
    end, begin = (tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<s>"))
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    write_json(folder / "config.json", {**config.to_published(dtype=dtype), **ids})
    write_json(folder / "generation_config.json", ids)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Phi3VImageProcessor",
            "processor_class": "Phi3VProcessor",
            "do_convert_rgb": True,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
            "num_crops": 4,
            "num_img_tokens": config.vision.merged_side**2,
        },
    )
