"""Attention over a packed row by variable-length flash attention: one call for all segments.

It needs a GPU of compute capability 8.0 (Ampere) or newer, bfloat16, and flash-attn or PyTorch 2.11 or newer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from phitune_trainer.host_copy import upload
from phitune_trainer.model.inputs import Segment
from phitune_trainer.model.varlen import MissingError, find_varlen


@dataclass(frozen=True)
class VarlenPlan:
    """A packed row as the sequences of a variable-length kernel.

    Such a kernel takes the queries of a sequence for the last of its keys. So a branch is a sequence of its
    own, whose keys are the prefix's and its own.
    """

    parts: tuple[int, ...]
    """Lengths of prefixes and branches in the order of the row, empty ones left out: sequences of queries."""
    keys: tuple[tuple[int, ...], ...]
    """For each part the numbers of the parts that hold its keys, in order."""

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """Keys of each part."""
        return tuple(sum(self.parts[part] for part in parts) for parts in self.keys)


def varlen_plan(segments: Sequence[Segment]) -> VarlenPlan:
    """Divide a packed row into the sequences of a variable-length kernel."""
    parts: list[int] = []
    keys: list[tuple[int, ...]] = []
    for segment in segments:
        shared: tuple[int, ...] = ()
        for number, length in enumerate((segment.prefix, *segment.branches)):
            if length:
                own = (len(parts),)
                keys.append(shared + own)
                parts.append(length)
                shared = own if number == 0 else shared
    return VarlenPlan(tuple(parts), tuple(keys))


class FlashAttention:
    """Attention in each segment of a packed row. Raises ValueError with the reason where it cannot run."""

    def __init__(self, segments: Sequence[Segment], x: Tensor) -> None:
        if reason := why_not(x.device, x.dtype):
            raise ValueError(f"attention: flash cannot run here: {reason}; use sdpa")
        plan = varlen_plan(segments)
        self._plan = plan
        self._has_branches = plan.parts != plan.key_lengths
        self._query_ends = _ends(plan.parts, x.device)
        # The same tensor where there are no branches: the kernel chooses by that.
        self._key_ends = _ends(plan.key_lengths, x.device) if self._has_branches else self._query_ends

    def __call__(self, _layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as `attention.Attend` says, in every layer alike."""
        if not self._plan.parts:
            return query
        if self._has_branches:
            key, value = self._gather(key), self._gather(value)
        return find_varlen().attend(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            self._query_ends,
            self._key_ends,
            max(self._plan.parts),
            max(self._plan.key_lengths),
        )

    def _gather(self, row: Tensor) -> Tensor:
        """(T, heads, head_dim) -> the keys or values of all parts in turn."""
        # By pieces rather than by index: gradients of what is shared are then added in a fixed order.
        parts = torch.split(row, list(self._plan.parts))
        return torch.cat([parts[number] for numbers in self._plan.keys for number in numbers])


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why flash attention cannot run on this device with this dtype; None if it can."""
    if device.type != "cuda":
        return f"it needs a GPU, this is {device.type}"
    if dtype != torch.bfloat16:
        return f"it needs bf16, this is {str(dtype).removeprefix('torch.')}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"it needs compute capability 8.0 (Ampere) or newer, this is {major}.{minor}"
    try:
        find_varlen()
    except MissingError as missing:
        return str(missing)
    return None


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    """0 and the running sums, int32, as the kernel wants them."""
    return upload(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)
