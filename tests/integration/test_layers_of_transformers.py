"""The layers written out here against those of the transformers library, which were written by others."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from harness.tiny_models import sample, small_config, small_model
from phitune_trainer.model import collate

torch.set_num_threads(1)

CONFIG = small_config()


def weights_for(theirs: torch.nn.Module, ours: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Our weights under their names, which in some versions lack a leading `vision_model.`."""
    found = {}
    for name in theirs.state_dict():
        own = prefix + name.removeprefix("vision_model.")
        found[name] = ours[own]
    return found


@pytest.mark.parametrize("length", [9, 64, 65, 80])
def test_text_layers_and_rotary_factors_are_those_of_phi3(length: int) -> None:
    rope: dict[str, Any] = {
        "rope_type": "longrope",
        "rope_theta": CONFIG.rope_theta,
        "short_factor": list(CONFIG.short_factor),
        "long_factor": list(CONFIG.long_factor),
        "original_max_position_embeddings": CONFIG.original_max_positions,
        "factor": CONFIG.max_positions / CONFIG.original_max_positions,
    }
    theirs = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            num_key_value_heads=CONFIG.num_heads,
            max_position_embeddings=CONFIG.max_positions,
            original_max_position_embeddings=CONFIG.original_max_positions,
            rope_parameters=rope,
            pad_token_id=0,
            attn_implementation="eager",
        )
    ).eval()
    ours = small_model()
    theirs.load_state_dict(weights_for(theirs, ours.state_dict(), ""))
    whole = sample(length)
    with torch.no_grad():
        expected = theirs(whole.input_ids[None], use_cache=False).logits[0]
        torch.testing.assert_close(ours.logits(collate([whole])), expected, rtol=0, atol=1e-5)


def test_the_picture_tower_is_clip_up_to_its_last_layer_but_one() -> None:
    vision = CONFIG.vision
    theirs = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    ).eval()
    tower = small_model().model.vision_embed_tokens.tower
    theirs.load_state_dict(weights_for(theirs, tower.state_dict(), ""))
    crops = torch.randn(
        3, 3, vision.image_size, vision.image_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = theirs(crops, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(tower(crops), expected, rtol=0, atol=1e-5)
