"""The attention kernels, and what happens where one is not available."""

import pytest
import torch

from harness.tiny_models import small_config
from phitune_trainer.model import Phi3V
from phitune_trainer.model.attention import eager, sdpa


@pytest.mark.parametrize("causal", [True, False])
def test_eager_and_fused_attention_agree(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=generator)
    torch.testing.assert_close(sdpa(query, key, value, causal), eager(query, key, value, causal))


def test_attention_that_is_not_built_in_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match="'flash' is not available here; use one of eager, sdpa"):
        Phi3V(small_config(), attention="flash")
