"""The files of a model folder, and the header of a safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.model.errors import ModelFilesError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

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
    "configuration_phi3_v.py",
    "modeling_phi3_v.py",
    "processing_phi3_v.py",
)
"""Files that belong beside the weights, as far as a folder has them.

The Python files are the published remote code: copied along for those who load a checkpoint with it, never
run here.
"""

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
        tensors = {
            name: TensorEntry(
                entry["dtype"], tuple(entry["shape"]), *(first + int(end) for end in entry["data_offsets"])
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError as error:
        raise ModelFilesError(f"{path}: not found, but the folder's index names it; copy it again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelFilesError(f"{path}: not a safetensors file: {error}; copy it again") from error
    expected = max((entry.end for entry in tensors.values()), default=first)
    if actual != expected:
        raise ModelFilesError(f"{path}: {actual} bytes, expected {expected} by its header; copy it again")
    return tensors
