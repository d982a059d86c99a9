"""The loss is a sum over labelled tokens, and every batch gives gradients to the same parameters."""

import pytest
import torch
from torch.nn import functional

from harness.tiny_models import gradients, sample, small_model
from phitune_trainer.methods.full import train_all
from phitune_trainer.model import Sample, collate

torch.set_num_threads(1)


def test_loss_is_the_summed_cross_entropy_of_the_labelled_tokens() -> None:
    one = sample(20, grids=[(1, 1)], labels=5)
    model = small_model()
    logits = model.logits(collate([one]))
    expected = functional.cross_entropy(logits[-6:-1], one.input_ids[-5:], reduction="sum")
    torch.testing.assert_close(model(collate([one])), expected)


def test_labels_in_the_middle_are_trained_too() -> None:
    one = sample(20)
    one.labels[7] = one.input_ids[7]
    batch = collate([sample(9, seed=1), one])
    assert batch.num_label_tokens == 3 + 4
    logits = small_model().logits(batch)
    positions = [5, 6, 7, 9 + 6, 9 + 16, 9 + 17, 9 + 18]
    targets = torch.cat([sample(9, seed=1).input_ids[-3:], one.input_ids[[7, 17, 18, 19]]])
    expected = functional.cross_entropy(logits[positions], targets, reduction="sum")
    torch.testing.assert_close(small_model()(batch), expected)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([sample(9)], id="no picture"),
        pytest.param([sample(9, labels=0)], id="no label"),
        pytest.param([], id="no sample"),
    ],
)
def test_every_batch_gives_a_gradient_to_every_trained_parameter(samples: list[Sample]) -> None:
    model = small_model()
    model(collate(samples)).backward()
    found = gradients(model)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    vision = [grad for name, grad in found.items() if "vision_embed_tokens" in name]
    assert vision
    assert not any(grad.any() for grad in vision)


def test_an_empty_batch_has_no_loss_and_no_gradient() -> None:
    model = small_model()
    loss = model(collate([]))
    loss.backward()
    assert loss.item() == 0
    assert not any(grad.any() for grad in gradients(model).values())


def test_frozen_vision_trains_on_text_alone() -> None:
    model = small_model()
    train_all(model, freeze_vision=True)
    model(collate([sample(9)])).backward()
    found = gradients(model)
    assert found.keys() == {name for name, _ in model.named_parameters() if "vision" not in name}
    assert found["model.embed_tokens.weight"].any(), "the text embedding is not part of the vision"


def test_the_unused_end_of_clip_is_neither_run_nor_trained() -> None:
    model = small_model()
    tower = model.model.vision_embed_tokens.tower
    unused = [*tower.encoder.layers[-1].parameters(), *tower.post_layernorm.parameters()]
    assert not any(parameter.requires_grad for parameter in unused)
    batch = collate([sample(9, grids=[(1, 1)])])
    with torch.no_grad():
        before = model.logits(batch)
        for parameter in unused:
            parameter.fill_(float("nan"))
        assert torch.equal(model.logits(batch), before)


def test_batch_counts_samples_tokens_labels_and_pictures() -> None:
    batch = collate([sample(9, grids=[(1, 1), (2, 1)]), sample(5, labels=2)])
    first_pictures = (1 * 1 + 1 + 1 + 1 + 1) + (2 * 1 + 1 + 2 + 1 + 1)
    assert (batch.num_samples, batch.num_images, batch.num_label_tokens) == (2, 2, 5)
    assert batch.num_tokens == 9 + 2 + first_pictures + 5
