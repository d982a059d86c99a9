"""Rotary positions with the long-context factors of Phi-3 ("LongRoPE", type "su").

A sequence of more than `original_max_positions` tokens uses the long factors for all of its positions, a
shorter one the short factors. Segments that are packed into one row are separate: each starts at position 0
and chooses its factors by the length of its own sequences. Branches of a segment go on from its prefix.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phitune_trainer.host_copy import upload
from phitune_trainer.model.inputs import Segment
from phitune_trainer.model_config import ModelConfig


class LongRope:
    """Makes the cosine and sine tables of a model. Calculates in float32, as published."""

    def __init__(self, config: ModelConfig) -> None:
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
        period = config.rope_theta**half
        short = torch.tensor(config.short_factor, dtype=torch.float32, device="cpu")
        long = torch.tensor(config.long_factor, dtype=torch.float32, device="cpu")
        # Row 0 for short sequences, row 1 for long ones.
        frequencies = torch.stack([1.0 / (short * period), 1.0 / (long * period)])
        self._frequencies = {frequencies.device: frequencies}
        """By device: those of one that has them already need not be copied there again."""
        self._original_max = config.original_max_positions
        stretch = config.max_positions / config.original_max_positions
        self._scale = (
            1.0
            if stretch <= 1
            else math.sqrt(1 + math.log(stretch) / math.log(config.original_max_positions))
        )

    def is_long(self, length: int) -> bool:
        """Whether a sequence of so many tokens uses the long factors."""
        return length > self._original_max

    def tables(
        self, segments: Sequence[Segment], *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (T, head_dim), for the segments of one packed row."""
        positions = torch.cat([torch.arange(0), *(_positions(segment) for segment in segments)])
        is_long = torch.tensor([self.is_long(segment.longest) for segment in segments], dtype=torch.bool)
        lengths = torch.tensor([segment.length for segment in segments], dtype=torch.int64)
        is_long = is_long.repeat_interleave(lengths, output_size=len(positions))
        return self.tables_at(upload(positions, device), upload(is_long, device), dtype=dtype)

    def tables_at(self, positions: Tensor, is_long: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (T, head_dim), at `positions` (T,) of sequences that are long or not (T,)."""
        device = positions.device
        if device not in self._frequencies:
            self._frequencies[device] = self._frequencies[torch.device("cpu")].to(device)
        angles = positions[:, None].float() * self._frequencies[device][is_long.long()]
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self._scale).to(dtype), (angles.sin() * self._scale).to(dtype)


def _positions(segment: Segment) -> Tensor:
    """Positions (T,) of the tokens of a segment in their sequences."""
    ends = [segment.prefix + length for length in segment.branches]
    return torch.cat([torch.arange(segment.prefix), *(torch.arange(segment.prefix, end) for end in ends)])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the heads of x (T, heads, head_dim) by tables (T, head_dim); pairs are one half apart."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
