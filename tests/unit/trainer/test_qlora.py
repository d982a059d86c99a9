"""QLoRA: which weights are in 4 bits, and that what is trained, saved, merged and loaded is one model."""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from phitune_trainer.build import load_method
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine.world import World
from phitune_trainer.export import merge
from phitune_trainer.load_trained import load_trained, locate
from phitune_trainer.methods import Method
from phitune_trainer.methods.adapter_folder import save_adapter
from phitune_trainer.model import Batch, Sample, collate, load_model, save_model

QLORA = {"method": "qlora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": True}}
FOUR_BITS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@pytest.fixture
def config(make_config: Any) -> TrainConfig:
    result: TrainConfig = make_config(**QLORA)
    return result


@pytest.fixture
def method(config: TrainConfig) -> Method:
    """A quantised model with adapters that have an effect."""
    loaded = load_method(config, World(0, 1, torch.device("cpu")))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return loaded


def batch_with_a_picture(method: Method) -> Batch:
    vision = method.model.model_config.vision
    shape = (vision.image_size, vision.image_size, 3)
    picture = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    ids = torch.tensor([1, *[-1] * vision.image_tokens(1, 1), 5, 6, 7])
    return collate([Sample(input_ids=ids, labels=ids.where(ids > 4, -100), pictures=(picture,))])


def test_only_the_linears_of_the_language_layers_are_in_four_bits(method: Method) -> None:
    quantised = {
        name
        for name, module in method.model.named_modules()
        if isinstance(getattr(module, "base_layer", module), bitsandbytes.nn.Linear4bit)
        and not name.endswith("base_layer")
    }
    num_layers = method.model.model_config.num_layers
    assert len(quantised) == num_layers * len(FOUR_BITS)
    assert all(name.startswith("model.layers.") and name.endswith(FOUR_BITS) for name in quantised)


def test_base_is_frozen_and_adapters_are_trained_in_float32(method: Method) -> None:
    trained = {name: p for name, p in method.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


@pytest.mark.parametrize("recompute", [False, True])
def test_every_adapter_has_a_gradient_also_after_an_evaluation(method: Method, recompute: bool) -> None:
    batch = batch_with_a_picture(method)
    method.model.set_gradient_checkpointing(recompute)
    with torch.no_grad():
        method.model.eval()(batch)
    method.model.train()(batch).backward()
    trained = {name: p.grad for name, p in method.model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []


def test_merged_weights_are_what_was_trained_and_not_the_base_before_it(
    method: Method, config: TrainConfig, tmp_path: Path
) -> None:
    batch = batch_with_a_picture(method)
    with torch.no_grad():
        trained = method.model.eval().logits(batch)
    merged = merge(method, "qlora")
    save_model(merged, tmp_path / "merged", source=config.model_dir)
    again = load_model(tmp_path / "merged", dtype=torch.float32, attention="sdpa").eval()
    with torch.no_grad():
        torch.testing.assert_close(again.logits(batch), trained, rtol=1e-5, atol=1e-5)


def test_exported_adapter_is_used_beside_the_quantised_base_it_was_trained_on(
    method: Method, config: TrainConfig, tmp_path: Path
) -> None:
    batch = batch_with_a_picture(method)
    with torch.no_grad():
        trained = method.model.eval().logits(batch)
        save_adapter(method.peft_model, tmp_path, "qlora")
        again = load_trained(
            locate(tmp_path, base=config.model_dir), dtype=torch.float32, attention="sdpa"
        ).to("cpu")
        torch.testing.assert_close(again.eval().logits(batch), trained, rtol=0, atol=0)
        save_adapter(method.peft_model, tmp_path, "lora")
        beside_other_weights = load_trained(
            locate(tmp_path, base=config.model_dir), dtype=torch.float32, attention="sdpa"
        )
        assert not torch.allclose(beside_other_weights.eval().logits(batch), trained, atol=1e-4)
