"""Numbers of parameters that need no torch, against the modules themselves."""

from __future__ import annotations

import pytest
import torch

from phitune_trainer.config import Lora
from phitune_trainer.memory import PUBLISHED, TINY, ModelShape
from phitune_trainer.methods.full import train_all
from phitune_trainer.methods.lora import add_adapters
from phitune_trainer.model import Phi3V
from phitune_trainer.model_config import ModelConfig, full_config, tiny_config

SIZES = pytest.mark.parametrize(
    ("config", "shape"),
    [pytest.param(full_config(), PUBLISHED, id="full"), pytest.param(tiny_config(), TINY, id="tiny")],
)


def on_no_device(config: ModelConfig) -> Phi3V:
    with torch.device("meta"):
        return Phi3V(config)


def trained(model: Phi3V) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_published_model_has_its_published_number_of_parameters() -> None:
    assert PUBLISHED.parameters == 4_146_621_440


@SIZES
def test_all_parameters_are_counted(config: ModelConfig, shape: ModelShape) -> None:
    assert shape.parameters == sum(p.numel() for p in on_no_device(config).parameters())


@SIZES
@pytest.mark.parametrize("freeze_vision", [False, True])
def test_trained_parameters_of_full_fine_tuning_are_counted(
    config: ModelConfig, shape: ModelShape, freeze_vision: bool
) -> None:
    model = on_no_device(config)
    train_all(model, freeze_vision=freeze_vision)
    assert shape.trained_parameters(freeze_vision=freeze_vision) == trained(model)


@pytest.mark.parametrize("vision", [False, True])
def test_parameters_of_adapters_are_counted(vision: bool) -> None:
    model = on_no_device(tiny_config())
    add_adapters(model, Lora(rank=3, alpha=6, dropout=0, vision=vision), seed=0)
    assert TINY.adapter_parameters(3, vision=vision) == trained(model)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 8), (16, 1)])
def test_picture_takes_as_many_tokens_as_the_model_makes_of_it(rows: int, columns: int) -> None:
    for config, shape in ((full_config(), PUBLISHED), (tiny_config(), TINY)):
        assert shape.vision.image_tokens(rows, columns) == config.vision.image_tokens(rows, columns)
