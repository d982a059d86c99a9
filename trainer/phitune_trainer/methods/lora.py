"""LoRA: small trained matrices beside frozen weights, by PEFT."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from phitune_trainer.config import Lora
from phitune_trainer.errors import UserError
from phitune_trainer.model import Phi3V

_SETTINGS: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"

LANGUAGE_TARGETS: Final = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")
CLIP_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PROJECTOR_TARGETS: Final = ("img_projection.0", "img_projection.2")
"""The linears that the recipe puts adapters on, by the ends of their names."""


def add_adapters(model: Phi3V, lora: Lora, *, seed: int) -> tuple[Any, str]:
    """Put adapters beside the weights of `model`, in place; PEFT's view of it, and a sentence.

    The adapters start out doing nothing: one matrix is drawn from `seed`, the same on every rank, the other
    is zero. CLIP's last layer gets none: the model never runs it.
    """
    targets = [*LANGUAGE_TARGETS, *(CLIP_TARGETS + PROJECTOR_TARGETS if lora.vision else ())]
    names = [f".{name}" for name, _ in model.named_modules()]
    if missing := [one for one in targets if not any(name.endswith(f".{one}") for name in names)]:
        raise UserError(f"method lora: this model has no {', '.join(missing)} to put adapters on")
    torch.manual_seed(seed)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=targets,
            exclude_modules=_never_run(model) if lora.vision else None,
            init_lora_weights="gaussian",
            bias="none",
        ),
    )
    where = f"the language weights ({', '.join(LANGUAGE_TARGETS)})"
    if lora.vision:
        where += f", CLIP ({', '.join(CLIP_TARGETS)}) and the projector"
    return (
        peft_model,
        f"adapters of rank {lora.rank}, alpha {lora.alpha:g}, on {where}; all else is left as it is",
    )


def _never_run(model: Phi3V) -> list[str]:
    tower = model.model.vision_embed_tokens.tower
    last = tower.encoder.layers[-1]
    (layer,) = (name for name, module in model.named_modules() if module is last)
    linears = (name for name, module in last.named_modules() if isinstance(module, torch.nn.Linear))
    return [f"{layer}.{name}" for name in linears]


def load_adapter(model: Phi3V, folder: Path) -> Any:
    """Put the adapters of a folder in PEFT's layout beside the weights of `model`, in place, as saved; PEFT's
    view of it.

    Reads safetensors only. UserError where a file is missing, or does not belong to this model.
    """
    if not (folder / _WEIGHTS).is_file():
        raise UserError(f"{folder / _WEIGHTS}: not found; an adapter needs its weights as safetensors")
    try:
        settings = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: not an adapter that can be read: {error}; copy it again") from error
    kind = json.loads((folder / _SETTINGS).read_text(encoding="utf-8")).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder / _SETTINGS}: peft_type is {kind!r}; only adapters of LoRA can be loaded")
    try:
        peft_model = get_peft_model(model, settings)
    except ValueError as error:  # none of its targets is here
        raise UserError(f"{folder}: its adapters do not fit this base model: {error}") from error
    expected = {
        name: one.shape
        for name, one in get_peft_model_state_dict(peft_model, save_embedding_layers=False).items()
    }
    found = {name: one.shape for name, one in weights.items()}
    if differing := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        raise UserError(
            f"{folder}: its adapters do not fit this base model: {len(differing)} differ, such as "
            f"{differing[0]}, {_shape(found, differing[0])} in the file, "
            f"{_shape(expected, differing[0])} expected"
        )
    set_peft_model_state_dict(peft_model, weights)
    return peft_model


def _shape(shapes: dict[str, torch.Size], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "nothing"
