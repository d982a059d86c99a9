"""Attention over a packed row: several sequences in one row of tokens, without padding between them."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from phitune_trainer.host_copy import upload
from phitune_trainer.model.inputs import Segment

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Maps a layer's number and its rotated queries, keys and values, each (T, heads, head_dim), to (T, heads,
head_dim).

Who runs the layers decides what is attended to: the segments of a packed row, or a cache of earlier tokens.
"""

Pack = Callable[[Sequence[Segment], Tensor], Attend]
"""Makes the attention within each segment of a packed row x (T, hidden); no segment sees another."""


class Kernel(Protocol):
    """Attention of a batch of equal shapes."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        """Queries (batch, heads, Q, head_dim), keys and values (batch, heads, K, head_dim) to outputs alike.

        `causal` needs Q = K; `mask` (Q, K) is true where a query sees a key.
        """


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """PyTorch's fused attention, as `Kernel` says."""
    attended: Tensor = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal
    )
    return attended


def eager(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Attention written out, its softmax in float32, as `Kernel` says."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        length = query.shape[-2]
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    attended: Tensor = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return attended


class PackedAttention:
    """Attention within each segment of a packed row, by a kernel for equal shapes."""

    def __init__(self, segments: Sequence[Segment], x: Tensor, *, kernel: Kernel) -> None:
        # Neighbours of one shape share a call: a batch of equal samples is then a single one.
        self._runs = [(segment, len(list(run))) for segment, run in groupby(segments)]
        self._masks = {
            segment: branch_mask(segment, x.device) for segment in set(segments) if any(segment.branches)
        }
        self._kernel = kernel

    def __call__(self, _layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as `Attend` says, in every layer alike."""
        outputs = [query[:0]]
        start = 0
        for segment, count in self._runs:
            end = start + count * segment.length
            shape = (count, segment.length, *query.shape[1:])
            heads = [x[start:end].view(shape).transpose(1, 2) for x in (query, key, value)]
            attended = self._within(segment, heads[0], heads[1], heads[2])
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
            start = end
        return torch.cat(outputs)

    def _within(self, segment: Segment, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Segments of one shape, (count, heads, length, head_dim) each, to the same shape."""
        prefix = [x[:, :, : segment.prefix] for x in (query, key, value)]
        attended = self._kernel(prefix[0], prefix[1], prefix[2], causal=True)
        if segment not in self._masks:
            return attended
        in_branches = self._kernel(query[:, :, segment.prefix :], key, value, mask=self._masks[segment])
        return torch.cat([attended, in_branches], dim=2)


def branch_mask(segment: Segment, device: torch.device) -> Tensor:
    """Which tokens of a segment (its length) each token of its branches (all of them, in order) sees."""
    owners = [number for number, length in enumerate(segment.branches) for _ in range(length)]
    branch = upload(torch.tensor(owners), device)
    own = (branch[:, None] == branch).tril()
    return torch.cat([own.new_ones(len(own), segment.prefix), own], dim=1)
