"""The model and its batches of fake tensors: shapes and lifetimes, no data, so neither memory nor a GPU."""

import dataclasses
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from phitune_trainer.config import Lora
from phitune_trainer.memory import Setup
from phitune_trainer.methods.full import train_all
from phitune_trainer.model import Batch, Phi3V
from phitune_trainer.model.read import PRECISIONS


def on_no_device(setup: Setup) -> Phi3V:
    """The model with its method, its trained parameters chosen, on the meta device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(PRECISIONS[setup.precision])
    try:
        with torch.device("meta"):
            model = Phi3V(setup.model, attention=setup.attention)
            if setup.method == "full":
                train_all(model, freeze_vision=setup.freeze_vision)
            else:
                from phitune_trainer.methods.lora import add_adapters

                dropout = 0.1 if setup.lora_dropout else 0.0
                lora = Lora(rank=setup.lora_rank, alpha=16, dropout=dropout, vision=setup.lora_vision)
                add_adapters(model, lora, seed=0)
    finally:
        torch.set_default_dtype(before)
    model.set_gradient_checkpointing(setup.recompute)
    return model.train()


def make_fake(model: Phi3V) -> None:
    """Replace the parameters by fake ones, and those that are not trained by buffers.

    Torch's memory tracker puts a hook on every parameter, which torch refuses for those without a gradient.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            delattr(module, name)
            if parameter.requires_grad:
                module.register_parameter(name, torch.nn.Parameter(values))
            else:
                module.register_buffer(name, values)


def fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch of fake tensors."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    fake: dict[str, Any] = {
        name: mode.from_tensor(value) for name, value in values.items() if isinstance(value, torch.Tensor)
    }
    fake["pictures"] = tuple(mode.from_tensor(picture) for picture in batch.pictures)
    return dataclasses.replace(batch, **fake)
