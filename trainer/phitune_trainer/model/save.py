"""Writing a model folder under the published names: it loads wherever the published checkpoint does."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from phitune_trainer.model.files import COMPANIONS, INDEX
from phitune_trainer.model.phi3v import Phi3V
from phitune_trainer.model_config import read_json

SHARD_BYTES = 2_000_000_000
"""Most weights of one file, in bytes: what loading and saving hold beside the model."""


def ignore(path: Path) -> None:
    """Take no notice of a file that has been written."""


def save_model(
    model: Phi3V, folder: Path, *, source: Path, on_written: Callable[[Path], None] = ignore
) -> None:
    """Write weights, index and the configuration, tokenizer and processor files of `source` into `folder`.

    The weights keep their dtype, bit for bit, and `config.json` names it: readers load in the dtype that it
    names. The folder is not complete before this returns: write to a name aside and rename. `on_written` is
    told of each file of weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = model.state_dict()
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    write_shards(folder, sizes, tensors.__getitem__, on_written=on_written)
    copy_companions(source, folder)
    _name_dtype(folder / "config.json", str(model.lm_head.weight.dtype).removeprefix("torch."))


def _name_dtype(path: Path, dtype: str) -> None:
    """Let a configuration name this dtype; one that does is left as it is, to the byte."""
    config = read_json(path)
    key = "dtype" if "dtype" in config else "torch_dtype"  # its name since transformers 4.56, and before
    if config.get(key) != dtype:
        text = json.dumps({**config, key: dtype}, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the files that belong beside the weights, as far as `source` has them."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_shards(
    folder: Path,
    sizes: Mapping[str, int],
    tensor_of: Callable[[str], Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
    on_written: Callable[[Path], None] = ignore,
) -> None:
    """Write tensors to numbered safetensors files and their index, holding one file's tensors at a time.

    `sizes` has the bytes of each tensor by name, in the order of the files; `tensor_of` is asked once for
    each.
    """
    shards = _plan(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensor_of(name).contiguous() for name in names}, path, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, path.name))
        on_written(path)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _plan(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Names by file: each file is filled up to `shard_bytes`, a larger tensor has one of its own."""
    shards: list[list[str]] = []
    room = -1
    for name, size in sizes.items():
        if size > room or not shards:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards
