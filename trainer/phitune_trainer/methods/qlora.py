"""4-bit weights for QLoRA: the linears of the language model's layers in NF4, by bitsandbytes.

CLIP, the projector, the text embedding and the output head keep their precision, as do all norms. Of PEFT's
preparation for k-bit training this leaves nothing to do: no base weight is trained, the norms calculate in
float32 (`model/language.py`), PEFT keeps adapters in float32, and layers are recomputed without re-entering
autograd.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import nn

from phitune_trainer.model import Phi3V

QUANT_TYPE = "nf4"
BLOCK_SIZE = 64
"""Weights that share a scale: the default of bitsandbytes, which the recipe leaves as it is."""


def quantize(model: Phi3V) -> list[str]:
    """Replace the linears of the language model's layers by 4-bit ones, in place; their names.

    They are quantised when the model is next moved to a device, also to the one that it is on.
    """
    model.requires_grad_(False)
    names = [
        f"model.layers.{name}"
        for name, module in model.model.layers.named_modules()
        if isinstance(module, nn.Linear)
    ]
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, _four_bits(linear))
    # What PEFT asks to know that adapters belong beside 4-bit weights.
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    return names


def dequantize(model: Phi3V, peft_model: Any) -> Phi3V:
    """The model with ordinary weights: adapters merged into what the 4 bits stood for. Changes `model`."""
    dtype = model.lm_head.weight.dtype
    for name, module in list(model.named_modules()):
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if isinstance(base, Linear4bit) and module is not base:
            weight = dequantize_4bit(base.weight.data, base.quant_state)
            merged = (weight.float() + module.get_delta_weight("default").float()).to(dtype)
            model.set_submodule(name, _linear(merged))
    unloaded: Phi3V = peft_model.merge_and_unload()
    return unloaded


def _four_bits(linear: nn.Linear) -> Linear4bit:
    with torch.device("meta"):
        module = Linear4bit(  # type: ignore[no-untyped-call]
            linear.in_features, linear.out_features, bias=False
        )
    module.weight = Params4bit(
        linear.weight.data,
        requires_grad=False,
        blocksize=BLOCK_SIZE,
        compress_statistics=False,
        quant_type=QUANT_TYPE,
        module=module,
    )
    module.compute_dtype = linear.weight.dtype
    module.compute_type_is_set = True
    # On CPUs with bf16 instructions an evaluation would lay the weights out for inference, for good: the
    # steps after it would have no gradient.
    module.support_avx512bf16_for_cpu = False
    return module


def _linear(weight: torch.Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
