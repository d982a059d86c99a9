"""Adapters: where they are put, and that merging them into the weights changes nothing."""

from pathlib import Path

import pytest
import torch

from phitune_trainer.config import Lora
from phitune_trainer.methods.lora import (
    CLIP_TARGETS,
    LANGUAGE_TARGETS,
    PROJECTOR_TARGETS,
    add_adapters,
    load_adapter,
)
from phitune_trainer.model import Batch, Phi3V, Sample, collate, load_model

RANK = 4


@pytest.fixture
def model(base_model: Path) -> Phi3V:
    """A small model in evaluation mode."""
    return load_model(base_model, dtype=torch.float32, attention="sdpa").eval()


def adapters(*, vision: bool) -> Lora:
    return Lora(rank=RANK, alpha=8.0, dropout=0.0, vision=vision)


def batch_with_a_picture(model: Phi3V) -> Batch:
    vision = model.model_config.vision
    picture = torch.randint(
        0, 256, (vision.image_size, vision.image_size, 3), dtype=torch.uint8, generator=torch.manual_seed(0)
    )
    ids = torch.tensor([1, *[-1] * vision.image_tokens(1, 1), 5, 6, 7])
    return collate([Sample(input_ids=ids, labels=ids.where(ids > 4, -100), pictures=(picture,))])


def shake(model: Phi3V) -> None:
    """Give every adapter an effect, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def adapted(model: Phi3V) -> set[str]:
    return {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}


def test_vision_gets_adapters_where_the_recipe_puts_them(model: Phi3V) -> None:
    num_layers, num_run = (
        model.model_config.num_layers,
        len(model.model.vision_embed_tokens.tower.encoder.layers) - 1,
    )
    add_adapters(model, adapters(vision=True), seed=0)
    in_vision = {name for name in adapted(model) if "vision_embed_tokens" in name}
    assert len(in_vision) == num_run * len(CLIP_TARGETS) + len(PROJECTOR_TARGETS)
    assert len(adapted(model) - in_vision) == num_layers * (len(LANGUAGE_TARGETS) - 1) + 1


def test_no_adapter_is_put_where_no_gradient_can_come(model: Phi3V) -> None:
    batch = batch_with_a_picture(model)
    add_adapters(model, adapters(vision=True), seed=0)
    shake(model)
    model(batch).backward()
    trained = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("vision", [False, True])
def test_vision_is_left_alone_unless_it_is_asked_for(model: Phi3V, vision: bool) -> None:
    add_adapters(model, adapters(vision=vision), seed=0)
    assert any("vision_embed_tokens" in name for name in adapted(model)) == vision


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_start_out_doing_nothing(model: Phi3V, vision: bool) -> None:
    batch = batch_with_a_picture(model)
    with torch.no_grad():
        before = model.logits(batch)
        add_adapters(model, adapters(vision=vision), seed=0)
        torch.testing.assert_close(model.logits(batch), before, rtol=0, atol=0)


@pytest.mark.parametrize("vision", [False, True])
def test_merged_and_unmerged_adapters_give_the_same(model: Phi3V, vision: bool) -> None:
    batch = batch_with_a_picture(model)
    base = model.logits(batch).detach()
    peft_model, _ = add_adapters(model, adapters(vision=vision), seed=0)
    shake(model)
    with torch.no_grad():
        unmerged = model.logits(batch)
        merged = peft_model.merge_and_unload().logits(batch)
    assert not torch.allclose(unmerged, base, atol=1e-3)
    torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=1e-5)


def test_saved_adapters_on_vision_are_loaded_as_they_were(
    model: Phi3V, base_model: Path, tmp_path: Path
) -> None:
    batch = batch_with_a_picture(model)
    peft_model, _ = add_adapters(model, adapters(vision=True), seed=0)
    shake(model)
    peft_model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    again = load_model(base_model, dtype=torch.float32, attention="sdpa").eval()
    load_adapter(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(batch), model.logits(batch), rtol=0, atol=0)
