"""The rotary tables, against the formula worked out by hand."""

import math

import pytest
import torch

from harness.tiny_models import small_config
from phitune_trainer.model.inputs import Segment
from phitune_trainer.model.rope import LongRope, rotate


@pytest.mark.parametrize(("length", "factors"), [(64, "short_factor"), (65, "long_factor")])
def test_each_frequency_is_divided_by_its_factor_and_the_tables_are_scaled(length: int, factors: str) -> None:
    config = small_config(original_max=64, max_positions=1024)
    cos, sin = LongRope(config).tables([Segment(length)], device=torch.device("cpu"), dtype=torch.float32)
    scale = math.sqrt(1 + math.log(16) / math.log(64))
    for pair in (0, 3, 7):
        angle = 50 / (getattr(config, factors)[pair] * 10000 ** (2 * pair / 16))
        for column in (pair, pair + 8):
            assert cos[50, column].item() == pytest.approx(scale * math.cos(angle), abs=1e-5)
            assert sin[50, column].item() == pytest.approx(scale * math.sin(angle), abs=1e-5)


def test_the_published_context_scales_by_1_1902() -> None:
    config = small_config(original_max=4096, max_positions=131072)
    cos, _ = LongRope(config).tables([Segment(1)], device=torch.device("cpu"), dtype=torch.float32)
    assert cos[0, 0].item() == pytest.approx(1.1902, abs=1e-4)


def test_every_segment_starts_at_position_zero() -> None:
    rope = LongRope(small_config())
    tables = {"device": torch.device("cpu"), "dtype": torch.float32}
    cos, _ = rope.tables([Segment(3), Segment(70), Segment(3)], **tables)
    assert torch.equal(cos[:3], cos[-3:])
    assert torch.equal(cos[:3], rope.tables([Segment(3)], **tables)[0])


def test_a_head_is_turned_in_pairs_one_half_apart() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    quarter_turn = (torch.zeros(1, 4), torch.ones(1, 4))
    assert rotate(x, *quarter_turn).flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]
