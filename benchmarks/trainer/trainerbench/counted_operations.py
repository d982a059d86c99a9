"""FLOPs of everything that is executed, by torch's counter, and what that counter cannot count.

It counts the operations that it has a formula for, and takes all others for nothing. Here an operation may
only count for nothing if it is known to multiply no matrices: it works on single elements, is a view, or is
named below.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_NAMES = """
_log_softmax _log_softmax_backward_data _to_copy _unsafe_view arange cat copy_ embedding
embedding_dense_backward index index_copy index_fill index_put index_select mean native_layer_norm
native_layer_norm_backward new_empty new_ones new_zeros nll_loss_backward nll_loss_forward ones_like
repeat_interleave scalar_tensor select_backward slice_backward stack sum tril upsample_bicubic2d
"""
_NO_PRODUCTS = frozenset(_NAMES.split())
"""Copies, indexing, norms, sums and losses."""


@dataclass
class Counted:
    """What was executed."""

    flops: int = 0
    """Of all operations with a formula."""
    unknown: set[str] = field(default_factory=set)
    """Operations whose FLOPs are not known."""


@contextmanager
def counting() -> Iterator[Counted]:
    """Count what is executed within this block, forward and backward; the numbers are there at its end."""
    counted = Counted()
    counter: Any = FlopCounterMode(display=False)
    watch: Any = _Watch(counted.unknown)
    with counter, watch:
        yield counted
    counted.flops = counter.get_total_flops()


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down what nobody knows the FLOPs of."""

    def __init__(self, unknown: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unknown = unknown

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """See TorchDispatchMode."""
        if not _is_known(operation):
            self._unknown.add(str(operation))
        return operation(*arguments, **(named or {}))


def _is_known(operation: Any) -> bool:
    if not isinstance(operation, torch._ops.OpOverload):  # a kernel or a region as a whole
        return operation in flop_registry
    packet = operation.overloadpacket
    return (
        packet in flop_registry
        or operation.is_view
        or operation is torch.ops.prim.device.default  # asks where a tensor lies
        or torch.Tag.pointwise in operation.tags
        or (operation.namespace == "aten" and packet.__name__ in _NO_PRODUCTS)
    )
