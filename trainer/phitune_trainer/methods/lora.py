"""LoRA: small trained matrices beside the frozen language weights, by PEFT."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from phitune_trainer.config import Lora
from phitune_trainer.errors import UserError
from phitune_trainer.model import Phi3V

LANGUAGE_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")


def add_adapters(model: Phi3V, lora: Lora, *, seed: int) -> tuple[Any, str]:
    """Put adapters beside the language weights of `model`, in place; PEFT's view of it, and a sentence.

    The adapters start out doing nothing: one matrix is drawn from `seed`, the same on every rank, the
    other is zero.
    """
    if lora.vision:
        raise UserError(
            "lora.vision: adapters on the vision part are not available in this version; use false"
        )
    modules = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := [target for target in LANGUAGE_TARGETS if target not in modules]:
        raise UserError(f"method lora: this model has no {', '.join(missing)} to put adapters on")
    torch.manual_seed(seed)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=list(LANGUAGE_TARGETS),
            init_lora_weights="gaussian",
            bias="none",
        ),
    )
    where = f"{len(LANGUAGE_TARGETS)} kinds of language weights ({', '.join(LANGUAGE_TARGETS)})"
    return (
        peft_model,
        f"adapters of rank {lora.rank}, alpha {lora.alpha:g}, on {where}; all else is left as it is",
    )
