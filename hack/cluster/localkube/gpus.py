"""Pretended GPUs: the capacity that a device plugin would report and the labels of GPU feature discovery.

Nothing can compute on them. Pods that ask for them are scheduled, started and counted as on real ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .console import ClusterError

RESOURCE = "nvidia.com/gpu"


@dataclass(frozen=True)
class Product:
    """Facts of a card, as GPU feature discovery would label them."""

    family: str
    memory_mib: int
    compute: tuple[int, int]


PRODUCTS: Mapping[str, Product] = {
    "Tesla-P100-PCIE-16GB": Product("pascal", 16384, (6, 0)),
    "Tesla-V100-SXM2-16GB": Product("volta", 16384, (7, 0)),
    "Tesla-V100-SXM2-32GB": Product("volta", 32768, (7, 0)),
    "Tesla-T4": Product("turing", 15360, (7, 5)),
    "Quadro-RTX-8000": Product("turing", 46080, (7, 5)),
    "NVIDIA-A10": Product("ampere", 23028, (8, 6)),
    "NVIDIA-A100-SXM4-40GB": Product("ampere", 40960, (8, 0)),
    "NVIDIA-A100-SXM4-80GB": Product("ampere", 81920, (8, 0)),
    "NVIDIA-RTX-A6000": Product("ampere", 49140, (8, 6)),
    "NVIDIA-GeForce-RTX-4090": Product("ada-lovelace", 24564, (8, 9)),
    "NVIDIA-L4": Product("ada-lovelace", 23034, (8, 9)),
    "NVIDIA-L40S": Product("ada-lovelace", 46068, (8, 9)),
    "NVIDIA-H100-80GB-HBM3": Product("hopper", 81559, (9, 0)),
    "NVIDIA-H200": Product("hopper", 143771, (9, 0)),
    "NVIDIA-B200": Product("blackwell", 183359, (10, 0)),
}

FAMILIES: Mapping[tuple[int, int], str] = {
    (6, 0): "pascal",
    (7, 0): "volta",
    (7, 5): "turing",
    (8, 0): "ampere",
    (8, 9): "ada-lovelace",
    (9, 0): "hopper",
    (10, 0): "blackwell",
}
"""The family begins at this compute capability."""

LABELS = tuple(
    f"nvidia.com/gpu.{name}"
    for name in ("present", "product", "family", "memory", "count", "compute.major", "compute.minor")
)


@dataclass(frozen=True)
class Gpus:
    """The cards of one node, all alike."""

    product: str
    count: int
    memory_mib: int
    major: int
    minor: int
    family: str

    def labels(self) -> dict[str, str]:
        """The labels that a node with these cards carries."""
        return {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.family": self.family,
            "nvidia.com/gpu.memory": str(self.memory_mib),
            "nvidia.com/gpu.count": str(self.count),
            "nvidia.com/gpu.compute.major": str(self.major),
            "nvidia.com/gpu.compute.minor": str(self.minor),
        }

    def __str__(self) -> str:
        return f"{self.count} x {self.product} ({self.memory_mib} MiB, compute {self.major}.{self.minor})"


def parse(text: str) -> Gpus:
    """PRODUCT:COUNT for a known product, PRODUCT:COUNT:MEMORY_MIB:MAJOR.MINOR for any."""
    product, _, rest = text.partition(":")
    fields = rest.split(":")
    try:
        count = int(fields[0])
        if len(fields) == 1:
            product = known_product(product)
            known = PRODUCTS[product]
            memory_mib, (major, minor), family = known.memory_mib, known.compute, known.family
        else:
            memory_text, compute_text = fields[1:]
            major_text, minor_text = compute_text.split(".")
            memory_mib, major, minor = int(memory_text), int(major_text), int(minor_text)
            family = family_of(major, minor)
    except ValueError as problem:
        raise ClusterError(
            f"GPUs are written PRODUCT:COUNT or PRODUCT:COUNT:MEMORY_MIB:MAJOR.MINOR, got {text!r}",
            exit_code=2,
        ) from problem
    if count < 1 or memory_mib < 1:
        raise ClusterError(
            f"the number of GPUs and their memory must be at least 1, got {text!r}", exit_code=2
        )
    return Gpus(product, count, memory_mib, major, minor, family)


def known_product(wanted: str) -> str:
    """The full name in the table; a part that only one product has is enough (H100)."""
    if wanted in PRODUCTS:
        return wanted
    meant = [product for product in PRODUCTS if wanted and wanted in product]
    if len(meant) == 1:
        return meant[0]
    reason = f"could be any of {', '.join(meant)}" if meant else f"is none of {', '.join(PRODUCTS)}"
    raise ClusterError(f"{wanted!r} {reason}; for any other card add :MEMORY_MIB:MAJOR.MINOR", exit_code=2)


def parse_assignment(text: str) -> tuple[str, Gpus]:
    """NODE=PRODUCT:COUNT[:MEMORY_MIB:MAJOR.MINOR]."""
    node, separator, gpus = text.partition("=")
    if not separator:
        raise ClusterError(f"--gpu: written NODE=PRODUCT:COUNT, got {text!r}", exit_code=2)
    return node, parse(gpus)


def family_of(major: int, minor: int) -> str:
    """The family that a compute capability belongs to."""
    older = [start for start in FAMILIES if start <= (major, minor)]
    return FAMILIES[max(older)] if older else "unknown"
