"""The most 16-bit floating-point operations a second that a GPU can do: what MFU is a share of. No torch.

Dense matrix products that are added up in float32, from the vendor's data sheets and architecture papers;
where these only give the number with sparsity, half of it.
"""

from typing import Final

from phitune_trainer.config import Precision

_TERA: Final = 10**12

_PEAKS: Final = {
    "B200": 2250,
    "H200": 989,
    "H200-NVL": 835,
    "H100": 989,
    "H100-PCIE": 756,
    "H100-NVL": 835,
    "A100": 312,
    "L40S": 362,
    "A6000": 155,
    "A10": 125,
    "L4": 121,
    "RTX-5090": 209,
    "RTX-4090": 165,
    "RTX-3090": 71,
    "RTX-8000": 130,
    "T4": 65,
    "V100": 125,
    "V100-PCIE": 112,
}
"""In TFLOP/s, by words of the product's name."""
_WITHOUT_BF16: Final = frozenset({"RTX-8000", "T4", "V100", "V100-PCIE"})
"""Older than Ampere: bf16 is converted there."""
_ELSEWISE: Final = frozenset({"MIG", "LAPTOP", "D"})
"""Words of products that are slower than their name's other words say."""


def peak_flops(product: str, precision: Precision) -> float | None:
    """FLOP/s of a GPU by the name that its driver gives it; None where that is not known.

    Not for fp32, whose matrix products may or may not be rounded to fewer bits.
    """
    words = _words(product)
    if precision == "fp32" or words & _ELSEWISE:
        return None
    found = [name for name in _PEAKS if _words(name) <= words]
    if not found:
        return None
    name = max(found, key=lambda name: len(_words(name)))
    return None if precision == "bf16" and name in _WITHOUT_BF16 else float(_PEAKS[name] * _TERA)


def _words(name: str) -> frozenset[str]:
    return frozenset(name.upper().replace("_", "-").replace(" ", "-").split("-"))
