"""A sample gives the same numbers whatever it is packed with."""

import pytest
import torch

from harness.tiny_models import gradients, sample, small_model
from phitune_trainer.model import Sample, collate

torch.set_num_threads(1)

SHORT = sample(20, seed=1)
SHORT_WITH_PICTURE = sample(12, grids=[(1, 1)], seed=2)
SHORT_AS_ANOTHER = sample(20, seed=3)
LONG_WITH_PICTURES = sample(70, grids=[(2, 1), (1, 2)], seed=4)
LONG = sample(65, seed=5)
LONGEST_SHORT = sample(64, seed=6)

MIXES = [
    pytest.param([SHORT, SHORT_AS_ANOTHER, LONG], id="text only, equal lengths beside a long one"),
    pytest.param([LONG_WITH_PICTURES, SHORT, SHORT_WITH_PICTURE], id="pictures in some samples"),
    pytest.param([LONGEST_SHORT, LONG], id="on both sides of the border to the long rotary factors"),
    pytest.param([SHORT_WITH_PICTURE], id="one sample"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("samples", MIXES)
def test_packed_logits_are_those_of_each_sample_alone(samples: list[Sample], attention: str) -> None:
    model = small_model(attention=attention)
    with torch.no_grad():
        packed = model.logits(collate(samples))
        alone = torch.cat([model.logits(collate([one])) for one in samples])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", MIXES)
def test_loss_and_gradients_do_not_depend_on_the_split_into_batches(samples: list[Sample]) -> None:
    model = small_model()
    whole = model(collate(samples))
    whole.backward()
    expected = gradients(model)
    parts = [model(collate([one])) for one in samples]
    for part in parts:
        part.backward()
    torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-5)


def test_a_long_sequence_uses_other_rotary_factors_than_a_short_one() -> None:
    short_only, switching = small_model(original_max=512), small_model(original_max=64)
    for length, is_same in ((64, True), (65, False)):
        batch = collate([sample(length)])
        with torch.no_grad():
            # The scale of the tables depends on original_max too; only the factors are compared.
            switching.rope._scale = short_only.rope._scale
            assert torch.equal(short_only.logits(batch), switching.logits(batch)) is is_same


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    model = small_model()
    batch = collate([SHORT_WITH_PICTURE, LONG])
    model(batch).backward()
    expected = gradients(model)
    model.set_gradient_checkpointing(True)
    model(batch).backward()
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=0)
