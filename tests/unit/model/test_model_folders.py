"""Saving and loading a model folder, and what a folder that is wrong is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.tiny_models import small_config, small_model
from phitune_trainer.model import ModelConfig, ModelFilesError, load_model, save_model
from phitune_trainer.model.files import COMPANIONS, INDEX
from phitune_trainer.model.load import check_model
from phitune_trainer.model.save import write_shards
from phitune_trainer.tokenizer import write_json

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of three files."""
    folder = tmp_path_factory.mktemp("saved")
    tensors = small_model().to(torch.bfloat16).state_dict()
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    write_shards(folder, sizes, tensors.__getitem__, shard_bytes=sum(sizes.values()) // 2)
    write_json(folder / "config.json", small_config().to_published(dtype="bfloat16"))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return shutil.copytree(saved, tmp_path / "model")


def load(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return load_model(folder, dtype=dtype, attention="sdpa").state_dict()


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_what_is_loaded_and_saved_again_is_the_same_to_the_bit(folder: Path, tmp_path: Path) -> None:
    for name in COMPANIONS:
        if name != "config.json":
            (folder / name).write_text(f"the content of {name}")
    (folder / "optimizer.pt").write_text("does not belong to a model folder")
    again = tmp_path / "again"
    save_model(load_model(folder, dtype=torch.bfloat16, attention="sdpa"), again, source=folder)
    assert [path.name for path in shards(again)] == ["model-00001-of-00001.safetensors"]
    before = {name: tensor for path in shards(folder) for name, tensor in load_file(path).items()}
    after = load_file(shards(again)[0])
    assert before.keys() == after.keys()
    assert all(
        after[name].dtype == torch.bfloat16 and torch.equal(after[name], before[name]) for name in before
    )
    for name in COMPANIONS:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert {path.name for path in again.iterdir()} == {*COMPANIONS, INDEX, shards(again)[0].name}


def test_clips_unused_layer_and_norm_survive(folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder, dtype=torch.bfloat16, attention="sdpa"), tmp_path / "again", source=folder)
    before, after = load(folder), load(tmp_path / "again")
    unused = [name for name in before if "encoder.layers.2." in name or "post_layernorm" in name]
    assert len(unused) == 18
    assert all(torch.equal(before[name], after[name]) and before[name].any() for name in unused)


def test_the_index_names_every_tensor_and_the_bytes_in_all(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    held = {name: path.name for path in shards(folder) for name in load_file(path)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == 2 * sum(tensor.numel() for tensor in load(folder).values())
    assert len(shards(folder)) == 3


def test_weights_are_converted_to_the_dtype_asked_for_and_keep_no_file_open(folder: Path) -> None:
    loaded = load(folder, torch.float32)
    expected = {name: tensor.float() for name, tensor in load(folder).items()}
    for path in shards(folder):
        path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_one_file_without_an_index_loads_too(folder: Path) -> None:
    whole = {name: tensor for path in shards(folder) for name, tensor in load_file(path).items()}
    expected = load(folder)
    for path in [*shards(folder), folder / INDEX]:
        path.unlink()
    save_file(whole, folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(folder).items())


def cut_short(folder: Path) -> None:
    with shards(folder)[1].open("r+b") as file:
        file.truncate(shards(folder)[1].stat().st_size - 1)


def make_pointer(folder: Path) -> None:
    shards(folder)[0].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def change(rename: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = shards(folder)[0]
        tensors = load_file(path)
        rename(tensors)
        save_file(tensors, path)

    return apply


def only_pickle(folder: Path) -> None:
    for path in [*shards(folder), folder / INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def edit_config(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**config, **changes})

    return apply


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(shutil.rmtree, r"model.config\.json: not found", id="no folder"),
        pytest.param(lambda f: (f / "config.json").unlink(), r"config\.json: not found", id="no config"),
        pytest.param(
            lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON", id="broken config"
        ),
        pytest.param(
            lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object", id="list config"
        ),
        pytest.param(edit_config(model_type="llama"), "model_type: must be 'phi3_v'", id="another model"),
        pytest.param(
            edit_config(num_key_value_heads=1), "num_key_value_heads: must be 2", id="grouped heads"
        ),
        pytest.param(edit_config(vocab_size=None), "not the configuration", id="a size of nothing"),
        pytest.param(edit_config(hidden_size=33), "hidden_size: must be an even multiple", id="odd size"),
        pytest.param(edit_config(hidden_size=64), "short_factor: must be 16 positive", id="too few factors"),
        pytest.param(
            edit_config(embd_layer={"hd_transform_order": "glb_sub"}), "hd_transform_order: must be", id="3.0"
        ),
        pytest.param(only_pickle, r"pytorch_model\.bin is a pickle", id="only a pickle"),
        pytest.param(
            lambda f: shards(f)[2].unlink(), r"00003-of-00003\.safetensors: not found", id="file missing"
        ),
        pytest.param(cut_short, r"00002-of-00003\.safetensors: \d+ bytes, expected \d+", id="file cut short"),
        pytest.param(make_pointer, r"00001-of-00003\.safetensors: not a safetensors", id="a Git LFS pointer"),
        pytest.param(lambda f: (f / INDEX).write_text("{}"), "has no weight_map", id="an empty index"),
        pytest.param(
            lambda f: write_json(f / INDEX, {"weight_map": {EMBEDDING: "../other.safetensors"}}),
            "not a file of this folder",
            id="an index that leaves the folder",
        ),
        pytest.param(
            change(lambda t: t.pop(EMBEDDING)), rf"{EMBEDDING} \(48, 32\) is in no file", id="tensor missing"
        ),
        pytest.param(
            change(lambda t: t.update(foreign=torch.zeros(1))),
            r"holds foreign, which this model does not",
            id="foreign tensor",
        ),
        pytest.param(
            change(lambda t: t.update({EMBEDDING: torch.zeros(47, 32)})),
            r"has shape \(47, 32\), expected \(48, 32\)",
            id="tensor of another shape",
        ),
    ],
)
def test_a_folder_that_is_wrong_is_refused_by_name(
    folder: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(folder)
    for read in (check_model, load):
        with pytest.raises(ModelFilesError, match=message):
            read(folder)


def test_a_configuration_survives_writing_and_reading(tmp_path: Path) -> None:
    config = small_config()
    write_json(tmp_path / "config.json", config.to_published(dtype="float32"))
    assert ModelConfig.from_folder(tmp_path) == config


def test_all_problems_of_a_configuration_are_named_at_once(folder: Path) -> None:
    edit_config(hidden_act="gelu", tie_word_embeddings=True)(folder)
    with pytest.raises(ModelFilesError, match=r"hidden_act.*tie_word_embeddings"):
        ModelConfig.from_folder(folder)
