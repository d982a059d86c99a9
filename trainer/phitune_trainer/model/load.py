"""Opening a model folder: everything is checked by the headers before the first weight is read."""

import math
from pathlib import Path

import torch

from phitune_trainer.model.files import INDEX, SINGLE, TensorEntry, read_header
from phitune_trainer.model.phi3v import Phi3V
from phitune_trainer.model.read import STORED, read_tensors
from phitune_trainer.model_config import ModelConfig, ModelFilesError, read_json

_SHOWN = 5


def load_model(folder: Path, *, dtype: torch.dtype, attention: str) -> Phi3V:
    """Build the model of a folder with its weights, converted to `dtype`, on the CPU.

    Reads safetensors files only, each once, and holds no more than a few tensors beside the model itself.
    `attention` is a name in `kernels.ATTENTIONS`; another one is a ValueError. Raises ModelFilesError that
    names what is missing, foreign or cut short, and what was expected.
    """
    model, headers = _check(folder, attention)
    weights = {
        name: tensor
        for path, tensors in headers.items()
        for name, tensor in read_tensors(path, tensors, dtype=dtype).items()
    }
    model.load_state_dict(weights, strict=True, assign=True)
    return model


def check_model(folder: Path) -> int:
    """Check a model folder as `load_model` does, without reading the weights; the number of parameters.

    Raises ModelFilesError.
    """
    model, _ = _check(folder, "sdpa")
    return sum(parameter.numel() for parameter in model.parameters())


def _check(folder: Path, attention: str) -> tuple[Phi3V, dict[Path, dict[str, TensorEntry]]]:
    """The model without weights, and the headers of its files, which hold exactly its tensors."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelFilesError(
            f"{folder}: is an adapter, and a base model is whole weights; merge it first: "
            f"phitune export {folder} --to MERGED"
        )
    config = ModelConfig.from_folder(folder)
    with torch.device("meta"):
        model = Phi3V(config, attention=attention)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    headers = {path: read_header(path) for path in weight_files(folder)}
    check_tensors(folder, headers, expected)
    return model, headers


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by name. Raises ModelFilesError where there are none."""
    if not folder.is_dir():
        raise ModelFilesError(
            f"{folder}: no such folder; a model folder with config.json and weights was expected"
        )
    index = folder / INDEX
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFilesError(f"{index}: has no weight_map; copy it again")
        names = sorted({str(name) for name in weight_map.values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ModelFilesError(f"{index}: names {outside[0]!r}, which is not a file of this folder")
        return [folder / name for name in names]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    hint = f"; {pickles[0]} is a pickle, which is not read: convert it to safetensors" if pickles else ""
    raise ModelFilesError(f"{folder}: neither {INDEX} nor {SINGLE} is here{hint}")


def check_tensors(
    folder: Path, headers: dict[Path, dict[str, TensorEntry]], expected: dict[str, tuple[int, ...]]
) -> None:
    """Compare names and shapes with those of the model. Raises ModelFilesError with what differs."""
    found: dict[str, tuple[int, ...]] = {}
    problems = []
    for path, tensors in headers.items():
        for name, entry in tensors.items():
            if name in found:
                problems.append(f"{name} is in {path.name} and in another file")
            found[name] = entry.shape
            if name not in expected:
                problems.append(f"{path.name} holds {name}, which this model does not have")
            elif entry.shape != expected[name]:
                problems.append(f"{name} in {path.name} has shape {entry.shape}, expected {expected[name]}")
            elif entry.dtype not in STORED:
                problems.append(
                    f"{name} in {path.name} has dtype {entry.dtype}, expected {', '.join(STORED)}"
                )
            elif entry.end - entry.start != math.prod(entry.shape) * STORED[entry.dtype].itemsize:
                problems.append(
                    f"{name} in {path.name} has {entry.end - entry.start} bytes, expected "
                    f"{math.prod(entry.shape) * STORED[entry.dtype].itemsize}"
                )
    problems += [f"{name} {shape} is in no file" for name, shape in expected.items() if name not in found]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ModelFilesError(
            f"{folder}: the weights do not fit config.json: " + "; ".join(problems[:_SHOWN]) + more
        )
