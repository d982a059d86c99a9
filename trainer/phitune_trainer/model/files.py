"""The files of a model folder, and the header of a safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.errors import raise_if_out_of_reach
from phitune_trainer.model_config import ModelFilesError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

PUBLISHED_CODE = ("configuration_phi3_v.py", "modeling_phi3_v.py", "processing_phi3_v.py")
"""The published remote code: copied along for those who load a checkpoint with it, never run here."""

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.json",
    "chat_template.jinja",
    "LICENSE",
    *PUBLISHED_CODE,
)
"""Files that belong beside the weights, as far as a folder has them."""

_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a safetensors header states it."""

    dtype: str
    """Such as "BF16"."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset after its last byte in the file."""


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file by name, without reading any of them.

    Raises ModelFilesError where the file is missing, cut short or something else.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise ValueError("it does not start with the length of a header")
            header = json.loads(file.read(length).decode())
        actual = path.stat().st_size
        first = 8 + length
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        tensors = {
            name: _entry(name, stated, first) for name, stated in header.items() if name != "__metadata__"
        }
    except FileNotFoundError as error:
        raise ModelFilesError(f"{path}: not found, but the folder's index names it; copy it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise_if_out_of_reach(error, path)
        raise ModelFilesError(f"{path}: not a safetensors file: {error}; copy it again") from error
    expected = max((entry.end for entry in tensors.values()), default=first)
    if actual != expected:
        raise ModelFilesError(f"{path}: {actual} bytes, expected {expected} by its header; copy it again")
    place = first
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != place:
            raise ModelFilesError(
                f"{path}: {name} begins at byte {entry.start}, expected {place}, where the tensor before it "
                "ends; copy it again"
            )
        place = entry.end
    return tensors


def _entry(name: str, stated: object, first: int) -> TensorEntry:
    """A tensor of a header whose data begins at byte `first`. Raises ValueError."""
    match stated:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            if 0 <= start <= end and all(isinstance(size, int) and size >= 0 for size in shape):
                return TensorEntry(dtype, tuple(shape), first + start, first + end)
    raise ValueError(
        f"{name} must have a dtype, a shape and data_offsets, first and last, got {json.dumps(stated)[:200]}"
    )
