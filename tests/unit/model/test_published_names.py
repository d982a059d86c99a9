"""The full-size model has the published tensors, under their published names."""

import torch

from phitune_trainer.model import Phi3V
from phitune_trainer.model_config import full_config

CLIP = "model.vision_embed_tokens.img_processor.vision_model."


def published_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32064, 3072),
        "model.norm.weight": (3072,),
        "lm_head.weight": (32064, 3072),
        "model.vision_embed_tokens.glb_GN": (1, 1, 4096),
        "model.vision_embed_tokens.sub_GN": (1, 1, 1, 4096),
        "model.vision_embed_tokens.img_projection.0.weight": (3072, 4096),
        "model.vision_embed_tokens.img_projection.0.bias": (3072,),
        "model.vision_embed_tokens.img_projection.2.weight": (3072, 3072),
        "model.vision_embed_tokens.img_projection.2.bias": (3072,),
        CLIP + "embeddings.class_embedding": (1024,),
        CLIP + "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        CLIP + "embeddings.position_embedding.weight": (577, 1024),
    }
    for layer in range(32):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (3072,)
        shapes[prefix + "self_attn.qkv_proj.weight"] = (9216, 3072)
        shapes[prefix + "self_attn.o_proj.weight"] = (3072, 3072)
        shapes[prefix + "post_attention_layernorm.weight"] = (3072,)
        shapes[prefix + "mlp.gate_up_proj.weight"] = (16384, 3072)
        shapes[prefix + "mlp.down_proj.weight"] = (3072, 8192)
    for layer in range(24):
        prefix = f"{CLIP}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[prefix + f"self_attn.{name}.weight"] = (1024, 1024)
            shapes[prefix + f"self_attn.{name}.bias"] = (1024,)
        shapes[prefix + "mlp.fc1.weight"] = (4096, 1024)
        shapes[prefix + "mlp.fc1.bias"] = (4096,)
        shapes[prefix + "mlp.fc2.weight"] = (1024, 4096)
        shapes[prefix + "mlp.fc2.bias"] = (1024,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[prefix + f"{name}.weight"] = shapes[prefix + f"{name}.bias"] = (1024,)
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes[CLIP + f"{name}.weight"] = shapes[CLIP + f"{name}.bias"] = (1024,)
    return shapes


def test_full_size_has_the_592_published_tensors_and_no_other() -> None:
    with torch.device("meta"):
        state = Phi3V(full_config()).to(torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes()
    assert len(state) == 592
    assert sum(tensor.numel() for tensor in state.values()) == 4_146_621_440
    assert sum(tensor.nbytes for tensor in state.values()) == 8_293_242_880
