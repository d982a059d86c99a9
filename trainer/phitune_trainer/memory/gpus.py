"""GPUs by name, with the memory that their driver reports; a cluster's labels and torch know better."""

from dataclasses import dataclass
from typing import Final

BF16_FROM: Final = (8, 0)
"""Compute capability from which bf16 is computed natively."""
GIB: Final = 2**30
_MIB: Final = 2**20


@dataclass(frozen=True)
class Gpu:
    """What is known of a GPU, from the labels of a node, from torch, or from the table below."""

    name: str
    memory: int | None = None
    """Bytes; None if nothing said so."""
    compute_capability: tuple[int, int] | None = None
    """Such as (9, 0); None if nothing said so."""


def gib(size: float) -> str:
    """Bytes as people say them: whole GiB, below 10 with one digit."""
    number = size / GIB
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


GPUS: Final = {
    name: Gpu(name, mib * _MIB, capability)
    for name, mib, capability in [
        ("B200", 183_359, (10, 0)),
        ("H200", 143_771, (9, 0)),
        ("H100", 81_559, (9, 0)),
        ("A100-80GB", 81_920, (8, 0)),
        ("A100-40GB", 40_960, (8, 0)),
        ("L40S", 46_068, (8, 9)),
        ("A6000", 49_140, (8, 6)),
        ("A10", 23_028, (8, 6)),
        ("L4", 23_034, (8, 9)),
        ("RTX-5090", 32_607, (12, 0)),
        ("RTX-4090", 24_564, (8, 9)),
        ("RTX-3090", 24_576, (8, 6)),
        ("RTX-8000", 49_152, (7, 5)),
        ("T4", 15_360, (7, 5)),
        ("V100-32GB", 32_768, (7, 0)),
        ("V100-16GB", 16_384, (7, 0)),
    ]
}
"""By short name. Memory is what nvidia-smi reports, in MiB, with error correction on where that is usual."""


def find_gpu(name: str) -> Gpu | None:
    """The GPU of the table that a name means: its short name, or a product label that contains it.

    A product with a longer name is not taken for one with a shorter (A100 is not A10), and of a kind with two
    sizes of memory the name must say which. None for what the table does not have.
    """
    words = _words(name)
    if "MIG" in words:  # a slice of the GPU, with a share of its memory
        return None
    found = [gpu for short, gpu in GPUS.items() if _words(short) <= words]
    return max(found, key=lambda gpu: len(gpu.name)) if found else None


def gpus_named(name: str) -> list[Gpu]:
    """What people may mean: the GPU that `find_gpu` finds, else all of a kind (V100: both its memories)."""
    if found := find_gpu(name):
        return [found]
    words = _words(name)
    return [gpu for short, gpu in GPUS.items() if words <= _words(short)]


def _words(name: str) -> frozenset[str]:
    """Parts of a name, whatever is between them."""
    return frozenset(name.upper().replace("_", "-").replace(" ", "-").split("-"))
