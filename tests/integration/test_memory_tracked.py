"""The memory model against torch's own memory tracker, on a small model of real layers.

The full-size model is measured by `make bench-trainer`, row memory_model_worst.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from phitune_trainer.memory import Setup, estimate
from phitune_trainer.model_config import full_config, rope_factors
from trainerbench.tracked_memory import page, tracked_peak

pytestmark = pytest.mark.filterwarnings("ignore:Expected a tensor or a traceable wrapper-subclass")

CONFIG = replace(
    full_config(),
    vocab_size=2048,
    hidden_size=768,
    intermediate_size=2048,
    num_layers=2,
    num_heads=8,
    **rope_factors(96),
    vision=replace(full_config().vision, hidden_size=256, intermediate_size=1024, num_heads=4, num_layers=3),
)
"""The published proportions, a quarter as wide, two layers that run of each kind."""
LORA = {"method": "lora", "lora_rank": 16}


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"method": "full"}, id="full"),
        pytest.param({"method": "full", "micro_batch": 3, "recompute": True}, id="full, three recomputed"),
        pytest.param({"method": "full", "freeze_vision": True}, id="vision frozen"),
        pytest.param({"method": "full", "freeze_vision": True, "recompute": True}, id="frozen, recomputed"),
        pytest.param({"method": "full", "precision": "fp32"}, id="full, float32"),
        pytest.param({"method": "full", "attention": "eager"}, id="full, attention written out"),
        pytest.param({**LORA, "micro_batch": 2}, id="lora on the language part"),
        pytest.param({**LORA, "recompute": True}, id="lora, recomputed"),
        pytest.param({**LORA, "lora_vision": True}, id="lora on both parts"),
        pytest.param({**LORA, "lora_vision": True, "recompute": True}, id="lora on both, recomputed"),
    ],
)
def test_estimate_is_within_a_tenth_of_what_torch_counts(asked: dict[str, Any]) -> None:
    sample, content = page(CONFIG, text_tokens=100, label_tokens=20)
    setup = Setup(**{"recompute": False, "ranks": 4, "model": CONFIG, "content": content, **asked})
    estimated = estimate(setup)
    tracked = tracked_peak(setup, sample)
    assert estimated.tensors - estimated.buffers == pytest.approx(tracked, rel=0.1)
