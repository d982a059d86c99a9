"""Reading the weights of a safetensors file about as fast as its bytes can be read.

They go from the file straight to where they stay, without a mapped file or a buffer in between. What is left
to pay for is fresh memory, which the kernel hands out page by page, so a few threads share the work. Large
pages would be cheaper to hand out, but where memory is full of cached files they first have to be put
together, which was seen to take five times as long.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from phitune_trainer.errors import raise_if_out_of_reach
from phitune_trainer.model.files import TensorEntry
from phitune_trainer.model_config import ModelFilesError

STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""The dtypes that weights may have in a file, by their names there."""

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""The same by the names that configs and options have for them."""

_READERS = 4


def read_tensors(path: Path, entries: Mapping[str, TensorEntry], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file as its checked header states them, converted to `dtype`, on the CPU.

    Raises ModelFilesError where the file ends early or cannot be read.
    """
    in_order = sorted(entries, key=lambda name: entries[name].start)
    try:
        with ThreadPoolExecutor(_READERS) as pool:
            read = pool.map(lambda name: _read(path, entries[name]).to(dtype), in_order)
            return dict(zip(in_order, read, strict=True))
    except OSError as error:
        raise_if_out_of_reach(error, path)
        raise ModelFilesError(f"{path}: cannot be read: {error.strerror or error}; copy it again") from error


def _read(path: Path, entry: TensorEntry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=STORED[entry.dtype])
    room = tensor.flatten().view(torch.uint8).numpy().data
    # Opened for each tensor, since the kernel's reading ahead goes by the open file.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        done = 0
        while done < len(room):
            count = os.preadv(descriptor, [room[done:]], entry.start + done)
            if not count:
                raise OSError("it ends before its last weight")
            done += count
    finally:
        os.close(descriptor)
    return tensor
