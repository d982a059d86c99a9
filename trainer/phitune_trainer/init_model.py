"""A base model with random weights: a model folder like the published one, without a download."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phitune_trainer.folders import building, is_filled
from phitune_trainer.model import Phi3V
from phitune_trainer.model.pixels import CLIP_MEAN, CLIP_STD
from phitune_trainer.model.save import ignore, write_shards
from phitune_trainer.model_config import ModelConfig, full_config, tiny_config
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
