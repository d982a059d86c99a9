"""How the published recipe computes the loss of a sample, step by step and without any saving.

Written from what its model code and its trainer do, over the weights of a model of ours, adapters included.
A picture's crops are filled up with zeros and all go through all of CLIP, whose last layer nobody uses;
every layer is recomputed in the backward pass, and in each of the text layers the host asks for the last
position and makes the rotary tables anew; logits are computed at every position, in float32. A sample is a
row of its own, with one question. Attention is a kernel for the caller to name: the published code has flash
attention for GPUs from Ampere on, and elsewhere only attention written out.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from phitune_trainer.model import Phi3V, Sample
from phitune_trainer.model.attention import Kernel
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model.pixels import crops_of, grid_of
from phitune_trainer.model.vision import merge_patches


def recipes_loss(model: Phi3V, sample: Sample, *, num_crops: int, kernel: Kernel) -> Tensor:
    """Summed cross entropy of the labelled tokens of one sample without branches, a float32 scalar."""
    device = model.lm_head.weight.device
    ids, labels = sample.input_ids.to(device), sample.labels.to(device)
    x = model.model.embed_tokens(ids.clamp(min=0))
    pictures = [_picture(model, picture.to(device), num_crops, kernel) for picture in sample.pictures]
    x = x.index_put(((ids < 0).nonzero(as_tuple=True)), torch.cat(pictures).to(x.dtype))
    positions = torch.arange(len(ids), device=device)
    for layer in model.model.layers:
        x = checkpoint(_text_layer, model, layer, x, positions, kernel, use_reentrant=False)
    logits = model.lm_head(model.model.norm(x)).float()
    return functional.cross_entropy(
        logits[:-1].contiguous(), labels[1:].contiguous(), ignore_index=IGNORED, reduction="sum"
    )


def _picture(model: Phi3V, picture: Tensor, num_crops: int, kernel: Kernel) -> Tensor:
    """Bytes (H, W, 3) -> (image tokens, hidden)."""
    vision = model.model.vision_embed_tokens
    crops = crops_of(picture, vision.crop_size)
    padding = crops.new_zeros(1 + num_crops - len(crops), *crops.shape[1:])
    features = _clip(vision.tower, torch.cat([crops, padding]).to(vision.sub_GN.dtype), kernel)
    merged = merge_patches(features)[: len(crops)]
    rows, columns = grid_of(picture, vision.crop_size)
    parts = merged[1:].view(rows, columns, *merged.shape[1:])
    lines = [torch.cat(list(parts[row]), dim=1) for row in range(rows)]
    ends = vision.sub_GN[0]
    laid_out = torch.cat([_ended(torch.cat(lines), ends), vision.glb_GN[0], _ended(merged[0], ends)])
    projected: Tensor = vision.img_projection(laid_out)
    return projected


def _ended(canvas: Tensor, end: Tensor) -> Tensor:
    """(height, width, C), each row ended by `end` (1, 1, C) -> (height * (width + 1), C)."""
    return torch.cat([canvas, end.expand(len(canvas), 1, -1)], dim=1).flatten(0, 1)


def _clip(tower: Any, crops: Tensor, kernel: Kernel) -> Tensor:
    """The output of the last layer but one; the last is run as well."""
    states = [tower.pre_layrnorm(tower.embeddings(crops))]
    for layer in tower.encoder.layers:
        states.append(checkpoint(_clip_layer, layer, states[-1], kernel, use_reentrant=False))
    features: Tensor = states[-2][:, 1:]
    return features


def _clip_layer(layer: Any, x: Tensor, kernel: Kernel) -> Tensor:
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    query, key, value = (
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    x = x + attention.out_proj(kernel(query, key, value).transpose(1, 2).flatten(2))
    output: Tensor = x + layer.mlp(layer.layer_norm2(x))
    return output


def _text_layer(model: Phi3V, layer: Any, x: Tensor, positions: Tensor, kernel: Kernel) -> Tensor:
    cos, sin = _rotary_tables(model, positions, x.dtype)
    output: Tensor = layer(x, cos, sin, partial(_attend, kernel), 0)
    return output


def _rotary_tables(model: Phi3V, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    config = model.model_config
    is_long = int(positions.max()) + 1 > config.original_max_positions  # here the host waits for the device
    factors = config.long_factor if is_long else config.short_factor
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
    divisors = torch.tensor(factors, dtype=torch.float32, device=positions.device)
    angles = positions[:, None].float() / (divisors * config.rope_theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    stretch = config.max_positions / config.original_max_positions
    scale = math.sqrt(1 + math.log(stretch) / math.log(config.original_max_positions))
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def _attend(kernel: Kernel, _layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = [x.transpose(0, 1)[None] for x in (query, key, value)]
    return kernel(heads[0], heads[1], heads[2], causal=True)[0].transpose(0, 1)
