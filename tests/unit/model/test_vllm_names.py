"""What vLLM looks for in a folder of Phi-3.5-vision weights is in what is saved here.

Facts of vLLM's loader, stated in words and checked against names and shapes: it renames by prefix, puts
CLIP's q, k and v together, builds CLIP without its last layer and norm, and leaves the weights of those out.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from harness.tiny_models import published_folder, small_model
from phitune_trainer.model import Phi3V, save_model
from phitune_trainer.model.files import INDEX, PUBLISHED_CODE
from phitune_trainer.model_config import full_config
from phitune_trainer.trained_crops import write_settings

Shapes = dict[str, tuple[int, ...]]

RENAMED = (
    ("model.vision_embed_tokens.wte", "embed_tokens"),
    ("model.vision_embed_tokens.", "vision_embed_tokens."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)
"""Prefixes and what takes their place, tried in this order, each on what the one before has made."""

TOWER = "vision_embed_tokens.img_processor.vision_model."
NUM_TOWER_LAYERS = 23
LEFT_OUT = (f"{TOWER}post_layernorm.", f"{TOWER}encoder.layers.{NUM_TOWER_LAYERS}.")


def parameters_of_vllm() -> Shapes:
    """The parameters that vLLM's model waits for, by its own names, on one GPU."""
    found: Shapes = {
        "vision_embed_tokens.glb_GN": (1, 1, 4096),
        "vision_embed_tokens.sub_GN": (1, 1, 1, 4096),
        "vision_embed_tokens.img_projection.0.weight": (3072, 4096),
        "vision_embed_tokens.img_projection.0.bias": (3072,),
        "vision_embed_tokens.img_projection.2.weight": (3072, 3072),
        "vision_embed_tokens.img_projection.2.bias": (3072,),
        f"{TOWER}embeddings.class_embedding": (1024,),
        f"{TOWER}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        f"{TOWER}embeddings.position_embedding.weight": (577, 1024),
        f"{TOWER}pre_layrnorm.weight": (1024,),
        f"{TOWER}pre_layrnorm.bias": (1024,),
        "language_model.model.embed_tokens.weight": (32064, 3072),
        "language_model.model.norm.weight": (3072,),
        "language_model.lm_head.weight": (32064, 3072),
    }
    for layer in range(NUM_TOWER_LAYERS):
        at = f"{TOWER}encoder.layers.{layer}."
        rows = {"self_attn.qkv_proj": 3072, "self_attn.out_proj": 1024, "mlp.fc1": 4096, "mlp.fc2": 1024}
        for name, num_rows in rows.items():
            found[f"{at}{name}.weight"] = (num_rows, 4096 if name == "mlp.fc2" else 1024)
            found[f"{at}{name}.bias"] = (num_rows,)
        for name in ("layer_norm1", "layer_norm2"):
            found[f"{at}{name}.weight"] = found[f"{at}{name}.bias"] = (1024,)
    for layer in range(32):
        at = f"language_model.model.layers.{layer}."
        found[f"{at}input_layernorm.weight"] = found[f"{at}post_attention_layernorm.weight"] = (3072,)
        found[f"{at}self_attn.qkv_proj.weight"] = (9216, 3072)
        found[f"{at}self_attn.o_proj.weight"] = (3072, 3072)
        found[f"{at}mlp.gate_up_proj.weight"] = (16384, 3072)
        found[f"{at}mlp.down_proj.weight"] = (3072, 8192)
    return found


def renamed(name: str) -> str:
    for before, after in RENAMED:
        if name.startswith(before):
            name = after + name.removeprefix(before)
    return name


def put_together(shapes: Shapes) -> Shapes:
    """The shapes once CLIP's q, k and v, which are stored one by one, are one parameter."""
    found: Shapes = {}
    for name, shape in shapes.items():
        if name.startswith(TOWER) and any(f".{part}_proj." in name for part in "qkv"):
            for part in "qkv":
                name = name.replace(f".{part}_proj.", ".qkv_proj.")
            shape = (found.get(name, (0,))[0] + shape[0], *shape[1:])
        found[name] = shape
    return found


def test_every_parameter_of_vllm_is_there_under_a_name_it_understands_and_no_other() -> None:
    with torch.device("meta"):
        state = Phi3V(full_config()).state_dict()
    names = {renamed(name): tuple(tensor.shape) for name, tensor in state.items()}
    assert len(names) == len(state) == 592
    left_out = {name for name in names if name.startswith(LEFT_OUT)}
    assert len(left_out) == 16 + 2
    loaded = put_together({name: shape for name, shape in names.items() if name not in left_out})
    assert loaded == parameters_of_vllm()
    # vLLM takes the text embedding for the pictures' one only where the latter is not stored.
    assert not [name for name in state if name.startswith("model.vision_embed_tokens.wte")]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Small weights beside the published configuration and tokenizer; its code is stood in for."""
    base, out = tmp_path / "base", tmp_path / "merged"
    shutil.copytree(published_folder(), base, copy_function=shutil.copyfile)
    for name in PUBLISHED_CODE:
        (base / name).write_text(f"# stands for {name}\n")
    save_model(small_model().to(torch.bfloat16), out, source=base)
    return out


def test_the_configuration_says_what_vllm_reads_of_it(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    assert config["architectures"] == ["Phi3VForCausalLM"]
    assert config["model_type"] == "phi3_v"
    assert config["torch_dtype"] == "bfloat16"
    assert config["img_processor"]["image_dim_out"] == 1024
    assert config["img_processor"]["num_img_tokens"] == 144
    assert config["img_processor"].get("layer_idx", -2) == -2
    assert config["embd_layer"]["use_hd_transform"]
    assert config["embd_layer"]["with_learnable_separator"]
    assert config["embd_layer"]["hd_transform_order"] == "sub_glb"
    assert config["rope_scaling"]["type"] in ("su", "longrope")
    assert config["original_max_position_embeddings"] == 4096


def test_the_processor_that_vllm_loads_cuts_pictures_into_as_many_crops_as_the_training_did(
    export: Path,
) -> None:
    settings = export / "preprocessor_config.json"
    published = settings.read_bytes()
    write_settings(export, published_folder(), 4)
    assert settings.read_bytes() == published, "it has 4 already"
    write_settings(export, published_folder(), 16)
    assert json.loads(settings.read_text()) == {**json.loads(published), "num_crops": 16}


def test_python_files_that_the_settings_name_lie_beside_them(export: Path) -> None:
    files = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    named = {
        kind: place.partition(".")[0] + ".py"
        for file in files
        for kind, place in json.loads((export / file).read_text())["auto_map"].items()
    }
    assert named["AutoConfig"] == "configuration_phi3_v.py"
    assert named["AutoProcessor"] == "processing_phi3_v.py"
    assert all((export / name).is_file() for name in named.values())
    for name in ("generation_config.json", "tokenizer.json", "special_tokens_map.json"):
        assert (export / name).is_file()


def test_the_index_names_every_file_of_weights_and_every_file_has_what_it_says(export: Path) -> None:
    # vLLM reads the *.safetensors files that the index names, whole, and no others.
    index = json.loads((export / INDEX).read_text())
    files = sorted(export.glob("*.safetensors"))
    assert {path.name for path in files} == set(index["weight_map"].values())
    held, total = {}, 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118 - not a dict
                held[name] = path.name
                tensor = file.get_tensor(name)
                assert tensor.dtype == torch.bfloat16
                total += tensor.nbytes
    assert held == index["weight_map"]
    assert index["metadata"]["total_size"] == total
