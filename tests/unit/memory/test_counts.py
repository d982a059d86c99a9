"""Numbers of parameters that need no torch, against the modules themselves."""

from __future__ import annotations

import pytest
import torch

from phitune_trainer.config import Lora
from phitune_trainer.memory.counts import (
    adapter_parameters,
    largest_parameter,
    parameters,
    text_matrices,
    trained_parameters,
)
from phitune_trainer.methods.full import train_all
from phitune_trainer.methods.lora import add_adapters
from phitune_trainer.model import Phi3V
from phitune_trainer.model_config import ModelConfig, full_config, tiny_config

SIZES = pytest.mark.parametrize(
    "config", [pytest.param(full_config(), id="full"), pytest.param(tiny_config(), id="tiny")]
)


def on_no_device(config: ModelConfig) -> Phi3V:
    with torch.device("meta"):
        return Phi3V(config)


def trained(model: Phi3V) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_published_model_has_its_published_number_of_parameters() -> None:
    assert parameters(full_config()) == 4_146_621_440


@SIZES
def test_all_parameters_are_counted(config: ModelConfig) -> None:
    assert parameters(config) == sum(p.numel() for p in on_no_device(config).parameters())


@SIZES
@pytest.mark.parametrize("freeze_vision", [False, True])
def test_trained_parameters_of_full_fine_tuning_are_counted(config: ModelConfig, freeze_vision: bool) -> None:
    model = on_no_device(config)
    train_all(model, freeze_vision=freeze_vision)
    assert trained_parameters(config, freeze_vision=freeze_vision) == trained(model)


@SIZES
@pytest.mark.parametrize("vision", [False, True])
def test_parameters_of_adapters_are_counted(config: ModelConfig, vision: bool) -> None:
    model = on_no_device(config)
    add_adapters(model, Lora(rank=3, alpha=6, dropout=0, vision=vision), seed=0)
    assert adapter_parameters(config, 3, vision=vision) == trained(model)


@SIZES
def test_matrices_that_qlora_quantises_are_counted(config: ModelConfig) -> None:
    layers = on_no_device(config).model.layers
    assert text_matrices(config) == sum(p.numel() for p in layers.parameters() if p.dim() == 2)


@SIZES
def test_embedding_and_head_are_the_largest_parameters(config: ModelConfig) -> None:
    assert largest_parameter(config) == max(p.numel() for p in on_no_device(config).parameters())
