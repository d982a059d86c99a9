"""Attention over a packed row: several sequences in one row of tokens, without padding between them."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

Kernel = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""Maps queries, keys and values, each (batch, heads, tokens, head_dim), and "causal" to outputs alike."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Maps a layer's number and its rotated queries, keys and values, each (T, heads, head_dim), to (T, heads,
head_dim).

Who runs the layers decides what is attended to: the segments of a packed row, or a cache of earlier tokens.
"""


def sdpa(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """PyTorch's fused attention."""
    attended: Tensor = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attended


def eager(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention written out, its softmax in float32."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        length = query.shape[-2]
        future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    attended: Tensor = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return attended


KERNELS: dict[str, Kernel] = {"sdpa": sdpa, "eager": eager}


def kernel_named(name: str) -> Kernel:
    """The kernel of a name in KERNELS. Raises ValueError that lists them for any other name."""
    if name not in KERNELS:
        raise ValueError(
            f"attention: {name!r} is not available here; use one of {', '.join(sorted(KERNELS))}"
        )
    return KERNELS[name]


class PackedAttention:
    """Causal attention within each segment of a packed row; no segment sees another."""

    def __init__(self, lengths: Sequence[int], kernel: Kernel) -> None:
        # Neighbours of one length share a call: a batch of equal samples is then a single one.
        self._runs = [(len(list(run)), length) for length, run in groupby(lengths)]
        self._kernel = kernel

    def __call__(self, _layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as `Attend` says, in every layer alike."""
        outputs = [query[:0]]
        start = 0
        for count, length in self._runs:
            end = start + count * length
            shape = (count, length, *query.shape[1:])
            heads = [x[start:end].view(shape).transpose(1, 2) for x in (query, key, value)]
            attended = self._kernel(heads[0], heads[1], heads[2], True)  # (count, heads, length, head_dim)
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
            start = end
        return torch.cat(outputs)
