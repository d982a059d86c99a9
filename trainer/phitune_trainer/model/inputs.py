"""What the model takes: samples, and the batch that they are laid into.

A batch is one packed row: the tokens of all samples one after the other, without padding. Which token is
trained is decided here, on the host, so that the device computes logits only where a label is and never has
to be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One conversation, ready for the model."""

    input_ids: Tensor
    """(T,) int64: token ids; -i is a place of picture i, counted from 1."""
    labels: Tensor
    """(T,) int64: the token itself where it is trained, IGNORED elsewhere and at the first token."""
    pictures: tuple[Tensor, ...] = ()
    """Resized pictures in the order of their numbers: bytes (H, W, 3), H and W multiples of the crop size."""
    where: str = ""
    """Where the sample comes from, as "file:line", for messages."""

    @property
    def num_tokens(self) -> int:
        """Length of the sample, picture tokens included."""
        return len(self.input_ids)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that are trained."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples packed into one row of T tokens."""

    input_ids: Tensor
    """(T,) int64: token ids, below 0 where a picture stands."""
    lengths: tuple[int, ...]
    """Tokens of each sample, in order; they add up to T."""
    pictures: tuple[Tensor, ...]
    """Pictures of all samples in the order of their places."""
    picture_positions: Tensor
    """(P,) int64: the places of picture tokens in the row."""
    label_positions: Tensor
    """(L,) int64: the places whose logits are trained, each one before its label."""
    labels: Tensor
    """(L,) int64: the tokens that are to be predicted there."""
    where: tuple[str, ...] = ()
    """Where each sample comes from, as "file:line", for messages."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            pictures=tuple(picture.to(device) for picture in self.pictures),
            picture_positions=self.picture_positions.to(device),
            label_positions=self.label_positions.to(device),
            labels=self.labels.to(device),
        )

    @property
    def num_samples(self) -> int:
        """Samples in the row."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Length of the row, picture tokens included."""
        return sum(self.lengths)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that are trained: what a mean loss is divided by."""
        return len(self.labels)

    @property
    def num_images(self) -> int:
        """Pictures of all samples."""
        return len(self.pictures)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pack samples into one row. No samples make an empty batch, whose loss and gradients are zero."""
    nothing = torch.empty(0, dtype=torch.int64)
    input_ids = torch.cat([nothing, *(sample.input_ids for sample in samples)])
    labels = torch.cat([nothing, *(sample.labels for sample in samples)])
    trained = (labels != IGNORED).nonzero().flatten()
    return Batch(
        input_ids=input_ids,
        lengths=tuple(sample.num_tokens for sample in samples),
        pictures=tuple(picture for sample in samples for picture in sample.pictures),
        picture_positions=(input_ids < 0).nonzero().flatten(),
        label_positions=trained - 1,
        labels=labels[trained],
        where=tuple(sample.where for sample in samples),
    )
