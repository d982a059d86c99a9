"""GPUs by the names that clusters have for them: products, accelerators, types of machines. Pure.

What GPU feature discovery says of memory and compute capability goes before; these tables stand in for it.
"""

import re
from dataclasses import replace
from typing import Final

from phitune_trainer.memory import GPUS, Gpu, find_gpu

SHARED: Final = "-SHARED"
"""End of the product of a GPU that several pods use in turn."""
MIG: Final = "-MIG-"
"""Stands before the profile of a slice in its product."""
_MIB: Final = 2**20

_MORE: Final = {
    "A10G": Gpu("A10G", 22_731 * _MIB, (8, 6)),
    "P100": Gpu("P100", None, (6, 0)),
    "P40": Gpu("P40", None, (6, 1)),
    "P4": Gpu("P4", None, (6, 1)),
    "M60": Gpu("M60", None, (5, 2)),
    "K80": Gpu("K80", None, (3, 7)),
}
"""Beside those of the memory model: what Amazon has under a name of its own, and what no build is for."""

_GKE: Final = {"nvidia-tesla-v100": "V100-16GB", "nvidia-tesla-a100": "A100-40GB"}
"""Values of cloud.google.com/gke-accelerator that do not say which of two memories is meant."""

_MACHINES: Final = [
    # Amazon EC2
    (r"p3dn\..*", "V100-32GB"),
    (r"p3\..*", "V100-16GB"),
    (r"p4d\..*", "A100-40GB"),
    (r"p4de\..*", "A100-80GB"),
    (r"p5\..*", "H100"),
    (r"p5en?\..*", "H200"),
    (r"p6-b200\..*", "B200"),
    (r"g4dn\..*", "T4"),
    (r"g5\..*", "A10G"),
    (r"g6e\..*", "L40S"),
    (r"g6\..*", "L4"),
    # Azure
    (r"Standard_ND\d+rs_v2", "V100-32GB"),
    (r"Standard_NC\d+r?s_v3", "V100-16GB"),
    (r"Standard_ND\d+asr_v4", "A100-40GB"),
    (r"Standard_ND\d+amsr_A100_v4", "A100-80GB"),
    (r"Standard_NC\d+ads_A100_v4", "A100-80GB"),
    (r"Standard_N[CD]\d+[a-z]+_H100_v5", "H100"),
    (r"Standard_ND\d+[a-z]+_H200_v5", "H200"),
    (r"Standard_NC\d+as_T4_v3", "T4"),
]
"""Values of node.kubernetes.io/instance-type and the GPU of each, but for those with a share of one."""


def known_gpu(name: str) -> Gpu | None:
    """The GPU that a product, accelerator or short name means; None for slices, and if no table has it."""
    if found := find_gpu(_GKE.get(name, name)):
        return found
    words = set(re.split(r"[-_ ]", name.upper()))
    return None if "MIG" in words else next((gpu for short, gpu in _MORE.items() if short in words), None)


def gpus_meant(name: str) -> list[Gpu]:
    """The GPUs that a name means: the one of `known_gpu`, else those of a kind (V100: of either memory)."""
    known = known_gpu(name)
    if known is not None:
        return [known]
    return [
        gpu for short, gpu in GPUS.items() if re.fullmatch(rf"{re.escape(name)}-\d+GB", short, re.IGNORECASE)
    ]


def gpu_of_machine(machine: str) -> Gpu | None:
    """The GPU of a cloud's type of machine; None if the table does not have it."""
    name = next((gpu for pattern, gpu in _MACHINES if re.fullmatch(pattern, machine)), None)
    return known_gpu(name) if name else None


def slice_of(gpu: Gpu, product: str, profile: str) -> Gpu:
    """A slice of a GPU by its profile, such as 3g.20gb; drivers report a twentieth less than it says."""
    size = re.fullmatch(r"\d+g\.(\d+)gb.*", profile)
    return replace(gpu, name=product, memory=int(size[1]) * 1024 * 19 // 20 * _MIB if size else None)


def is_whole(product: str) -> bool:
    """Whether the name is that of a GPU which is neither sliced nor shared."""
    return MIG not in product and not product.endswith(SHARED)


def is_same(one: str, other: str) -> bool:
    """Whether two names are those of one GPU."""
    if one == other:
        return True
    known = known_gpu(one)
    return known is not None and is_whole(one) and is_whole(other) and known == known_gpu(other)


def is_meant(asked: str, product: str) -> bool:
    """Whether a job that asks for `asked` may get `product`: that GPU, or one of the kind that it names."""
    if is_same(asked, product):
        return True
    return is_whole(asked) and is_whole(product) and known_gpu(product) in gpus_meant(asked)


def preference(product: str, capability: tuple[int, int] | None) -> tuple[int, int, int]:
    """Sorts products: the fastest first, in the order of the memory model's table; others by their age."""
    known = known_gpu(product)
    major, minor = capability or (0, 0)
    rank = list(GPUS).index(known.name) if known is not None and known.name in GPUS else len(GPUS)
    return rank, -major, -minor
