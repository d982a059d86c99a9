"""The variable-length flash attention at hand: flash-attn's where it loads, else PyTorch's own (2.11 on).

Both are one algorithm with one order of arguments, and take a sequence's queries for the last of its keys.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""Causal attention in sequences one behind the other: queries, keys, values, (T, heads, head_dim) each.

Then come where the sequences of queries and those of keys end (0 first, int32), and the longest of each.
"""


@dataclass(frozen=True)
class VarlenKernel:
    """A variable-length flash attention."""

    attend: Varlen
    about: str
    """Whose it is, and why not another one's, in words."""


class MissingError(Exception):
    """There is no variable-length flash attention. The message says what it needs, and what there is."""


@cache
def find_varlen() -> VarlenKernel:
    """The kernel for `FlashAttention`. Raises MissingError where there is none."""
    if find_spec("flash_attn") is None:
        return VarlenKernel(_of_torch("flash-attn"), "PyTorch's own")
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:  # compiled for another PyTorch, say
        broken = f"this flash-attn does not load: {error}"
        return VarlenKernel(_of_torch(f"another flash-attn ({broken})"), f"PyTorch's own; {broken}")
    return VarlenKernel(partial(flash_attn_varlen_func, causal=True), "flash-attn")


def _of_torch(else_needed: str) -> Varlen:
    """PyTorch's own. MissingError where it has none, with what would do instead."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        has_windows = False
    else:
        has_windows = "window_size" in inspect.signature(varlen_attn).parameters
    if not has_windows:
        raise MissingError(
            f"it needs {else_needed}, or PyTorch 2.11 or newer, and this is {torch.__version__}"
        )

    def attend(*arguments: Any) -> Tensor:
        # A window: everything to the left, nothing to the right.
        attended = varlen_attn(*arguments, window_size=(-1, 0))
        assert isinstance(attended, Tensor)
        return attended

    return attend
