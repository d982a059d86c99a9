"""Saving and loading a model folder, and what a folder that is wrong is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.tiny_models import small_config, small_model
from phitune_trainer.model import load_model, save_model
from phitune_trainer.model.files import COMPANIONS, INDEX, read_header
from phitune_trainer.model.load import check_model
from phitune_trainer.model.read import read_tensors
from phitune_trainer.model.save import write_shards
from phitune_trainer.model_config import ModelConfig, ModelFilesError
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


EMBEDDING = "model.embed_tokens.weight"


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
    assert {"configuration_phi3_v.py", "modeling_phi3_v.py", "processing_phi3_v.py"} < set(COMPANIONS)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_bit_pattern_survives_a_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    # Random bits: also infinities, both zeros, the smallest numbers, and what is no number at all.
    model = small_model().to(dtype)
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for name, parameter in model.state_dict().items():
        bits = torch.randint(0, 256, (parameter.nbytes,), dtype=torch.uint8, generator=generator)
        expected[name] = bits.view(dtype).view(parameter.shape)
    model.load_state_dict(expected, assign=True)
    write_json(tmp_path / "config.json", small_config().to_published(dtype=str(dtype)[len("torch.") :]))
    save_model(model, tmp_path / "saved", source=tmp_path)
    for name, tensor in load(tmp_path / "saved", dtype).items():
        assert torch.equal(tensor.flatten().view(torch.uint8), expected[name].flatten().view(torch.uint8))


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_configuration_names_the_dtype_of_the_weights(key: str, folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["torch_dtype"]
    write_json(folder / "config.json", {**config, key: "bfloat16", "kept": [1]})
    model = load_model(folder, dtype=torch.float16, attention="sdpa")
    save_model(model, tmp_path / "half", source=folder)
    saved = json.loads((tmp_path / "half" / "config.json").read_text())
    assert saved == {**config, key: "float16", "kept": [1]}
    assert {entry.dtype for path in shards(tmp_path / "half") for entry in read_header(path).values()} == {
        "F16"
    }


def test_saved_files_say_that_they_are_pytorchs(folder: Path) -> None:
    # The published remote code's library refuses weights without this mark.
    for path in shards(folder):
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


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


def test_a_file_that_shrinks_after_it_was_checked_is_named(folder: Path) -> None:
    entries = read_header(shards(folder)[1])
    cut_short(folder)
    with pytest.raises(ModelFilesError, match=r"00002-of-00003\.safetensors: cannot be read: it ends before"):
        read_tensors(shards(folder)[1], entries, dtype=torch.bfloat16)


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


def edit_header(**changes: object) -> Callable[[Path], None]:
    """Change what the header of the first file says of its first weight; the file keeps its length."""

    def apply(folder: Path) -> None:
        path = shards(folder)[0]
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header[EMBEDDING].update(changes)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return apply


def write_header(folder: Path, text: str) -> None:
    shards(folder)[0].write_bytes(len(text).to_bytes(8, "little") + text.encode())


def overlap(folder: Path) -> None:
    """Let the first weight lie where others do; it has as many bytes as it needs, the file its length."""
    header = read_header(shards(folder)[0])
    length = header[EMBEDDING].end - header[EMBEDDING].start
    last = max(entry.end for entry in header.values()) - min(entry.start for entry in header.values())
    start = 0 if min(entry.start for entry in header.values()) != header[EMBEDDING].start else last - length
    edit_header(data_offsets=[start, start + length])(folder)


def only_pickle(folder: Path) -> None:
    for path in [*shards(folder), folder / INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def edit_config(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**config, **changes})

    return apply


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
            edit_config(embd_layer={"hd_transform_order": "glb_sub"}),
            "hd_transform_order: must be",
            id="order",
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
        pytest.param(
            change(lambda t: t.update({EMBEDDING: torch.zeros(48, 32, dtype=torch.int8)})),
            rf"{EMBEDDING} in .*00001-of.* has dtype I8, expected BF16, F16, F32",
            id="tensor of another dtype",
        ),
        pytest.param(
            edit_header(dtype="F32"),
            rf"{EMBEDDING} in .*00001-of.* has 3072 bytes, expected 6144",
            id="a header that contradicts itself",
        ),
        pytest.param(
            edit_header(data_offsets=[0]),
            r"00001-of-00003\.safetensors: not a safetensors",
            id="half a place",
        ),
        pytest.param(
            edit_header(data_offsets=[-2, 3070]), "must have a dtype, a shape and", id="a place before all"
        ),
        pytest.param(
            edit_header(dtype=["BF16"]),
            rf"00001-of-00003\.safetensors: not a .*: {EMBEDDING} must have a dtype",
            id="a dtype that is a list",
        ),
        pytest.param(edit_header(shape=[48, "32"]), "must have a dtype, a shape", id="a size that is a text"),
        pytest.param(edit_header(shape=5), "must have a dtype, a shape", id="a shape that is a number"),
        pytest.param(overlap, r"00001-of-00003\.safetensors: \S+ begins at byte", id="tensors that overlap"),
        pytest.param(
            lambda f: write_header(f, "[" * 100_000),
            r"00001-of-00003\.safetensors: not a",
            id="a deep header",
        ),
        pytest.param(lambda f: write_header(f, "[]"), "not a JSON object", id="a header that is a list"),
        pytest.param(
            lambda f: (f / "config.json").write_text("[" * 100_000),
            r"config\.json: cannot be read as JSON",
            id="a deep config",
        ),
        pytest.param(edit_config(img_processor=None), "img_processor: must be an object", id="no tower"),
        pytest.param(
            edit_config(img_processor="clip"), "img_processor: must be an object", id="a named tower"
        ),
        pytest.param(
            edit_config(vocab_size=float("inf")), r"config\.json: not the configuration", id="an endless size"
        ),
        pytest.param(
            edit_config(sliding_window=1023),
            r"sliding_window: must be at least max_position_embeddings \(1024\), got 1023",
            id="a window narrower than the context",
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


def test_a_checkpoint_of_phi_3_vision_loads_with_the_same_code(folder: Path) -> None:
    # Its configuration lacks two keys of 3.5 that are zero there; its window is as long as its context.
    config = json.loads((folder / "config.json").read_text())
    for key in ("embd_pdrop", "resid_pdrop"):
        del config[key]
    expected = load(folder)
    write_json(folder / "config.json", {**config, "_name_or_path": "Phi-3-vision-128k-instruct"})
    edit_config(sliding_window=config["max_position_embeddings"])(folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(folder).items())


def test_a_configuration_survives_writing_and_reading(tmp_path: Path) -> None:
    config = small_config()
    write_json(tmp_path / "config.json", config.to_published(dtype="float32"))
    assert ModelConfig.from_folder(tmp_path) == config


def test_all_problems_of_a_configuration_are_named_at_once(folder: Path) -> None:
    edit_config(hidden_act="gelu", tie_word_embeddings=True)(folder)
    with pytest.raises(ModelFilesError, match=r"hidden_act.*tie_word_embeddings"):
        ModelConfig.from_folder(folder)
