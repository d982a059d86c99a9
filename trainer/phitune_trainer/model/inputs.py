"""What the model takes: samples, and the batch that they are laid into.

A batch is one packed row: the tokens of all samples one after the other, without padding. Which token is
trained is decided here, on the host, so that the device computes logits only where a label is and never has
to be asked.

Several sequences that begin alike (the questions about one page) are one sample: a prefix and branches. The
prefix is laid into the row once for all branches whose sequences use the same rotary factors, which depend on
the whole length of a sequence (`rope.py`); where both kinds occur, it is laid out once for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of several ways in which a sample goes on after its `input_ids`; text only."""

    input_ids: Tensor
    """(T,) int64: token ids."""
    labels: Tensor
    """(T,) int64: the token itself where it is trained, IGNORED elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One conversation, ready for the model, or several that begin with the same pictures and text.

    Without branches it is one sequence. With branches, each of them stands for the sequence `input_ids` +
    branch, trained as if alone; nothing of `input_ids` itself is then trained.
    """

    input_ids: Tensor
    """(T,) int64: token ids; below 0 where a picture stands, the places in the order of the pictures."""
    labels: Tensor
    """(T,) int64: the token itself where it is trained, IGNORED elsewhere and at the first token."""
    pictures: tuple[Tensor, ...] = ()
    """Resized pictures in the order of their numbers: bytes (H, W, 3), H and W multiples of the crop size."""
    where: str = ""
    """Where the sample comes from, as "file:line", for messages."""
    branches: tuple[Branch, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the sample, picture tokens and branches included, what branches share counted once."""
        return len(self.input_ids) + sum(len(branch.input_ids) for branch in self.branches)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that are trained."""
        parts = [self.labels, *(branch.labels for branch in self.branches)]
        return sum(int((labels != IGNORED).sum()) for labels in parts)


@dataclass(frozen=True)
class Segment:
    """A stretch of the row that attends to nothing outside it.

    Its prefix is causal. Each branch after it sees the prefix and itself, causally, and no other branch; its
    positions go on from the prefix's. All sequences of a segment use the same rotary factors.
    """

    prefix: int
    """Tokens that the branches share, or all tokens where there are none."""
    branches: tuple[int, ...] = ()
    """Tokens of each branch, in the order in which they follow the prefix."""

    @property
    def length(self) -> int:
        """Tokens of the segment in the row."""
        return self.prefix + sum(self.branches)

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence: the last position is one less."""
        return self.prefix + max(self.branches, default=0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples packed into one row of T tokens."""

    input_ids: Tensor
    """(T,) int64: token ids, below 0 where a picture stands."""
    segments: tuple[Segment, ...]
    """How the row is divided, in order; their lengths add up to T."""
    pictures: tuple[Tensor, ...]
    """Pictures of all samples in the order of their places."""
    picture_positions: Tensor
    """(P,) int64: the places of picture tokens in the row."""
    picture_rows: Tensor
    """(P,) int64: which of the embedded tokens of all pictures stands there; one may stand in two places."""
    num_picture_tokens: int
    """Embedded tokens of all pictures, each counted once."""
    label_positions: Tensor
    """(L,) int64: the places whose logits are trained, each one before its label; branches share the last
    place of their prefix. In the order of the samples, and in a sample of its branches."""
    labels: Tensor
    """(L,) int64: the tokens that are to be predicted there."""
    where: tuple[str, ...]
    """Where each sample comes from, as "file:line", for messages; one entry a sample."""
    picture_keys: tuple[str, ...] = ()
    """What tells each picture from others; none where pictures are not looked up."""
    embedded: tuple[Tensor | None, ...] = ()
    """(tokens, hidden) of each picture, as the vision part gives it, where that is known; none where pictures
    are not looked up. The model takes all of them or none."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`, but for pictures whose embedding is known."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same batch in memory of the host that `to` copies from without waiting for the GPU."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        known = self.embedded or (None,) * len(self.pictures)
        pairs = zip(self.pictures, known, strict=True)
        return replace(
            self,
            input_ids=change(self.input_ids),
            pictures=tuple(picture if rows is not None else change(picture) for picture, rows in pairs),
            picture_positions=change(self.picture_positions),
            picture_rows=change(self.picture_rows),
            label_positions=change(self.label_positions),
            labels=change(self.labels),
            embedded=tuple(rows if rows is None else change(rows) for rows in self.embedded),
        )

    @property
    def num_samples(self) -> int:
        """Samples in the row; one with branches counts once."""
        return len(self.where)

    @property
    def num_tokens(self) -> int:
        """Length of the row, picture tokens included."""
        return len(self.input_ids)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that are trained: what a mean loss is divided by."""
        return len(self.labels)

    @property
    def num_images(self) -> int:
        """Pictures of all samples."""
        return len(self.pictures)


def collate(samples: Sequence[Sample], *, original_max_positions: int | None = None) -> Batch:
    """Pack samples into one row. No samples make an empty batch, whose loss and gradients are zero.

    `original_max_positions` of the model's configuration says which branches may share their prefix; without
    it none do, which gives the same numbers for more work. Raises ValueError for a sample whose labels cannot
    be trained.
    """
    row = _Row()
    for sample in samples:
        row.add(sample, original_max_positions)
    return row.batch(samples)


class _Row:
    """A row that is being laid out."""

    def __init__(self) -> None:
        self._ids: list[Tensor] = []
        self._segments: list[Segment] = []
        self._picture_rows: list[Tensor] = []
        self._label_positions: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._length = 0
        self._num_picture_tokens = 0

    def add(self, sample: Sample, original_max_positions: int | None) -> None:
        _check(sample)
        num_picture_tokens = int((sample.input_ids < 0).sum())
        picture_rows = torch.arange(self._num_picture_tokens, self._num_picture_tokens + num_picture_tokens)
        self._num_picture_tokens += num_picture_tokens
        starts: dict[int, tuple[int, int]] = {}  # by branch: its first place, and the last one of its prefix
        for group in _groups(sample, original_max_positions):
            before = self._length
            self._append(sample.input_ids)
            self._picture_rows.append(picture_rows)
            for number in group:
                starts[number] = self._length, before + len(sample.input_ids) - 1
                self._append(sample.branches[number].input_ids)
            lengths = tuple(len(sample.branches[number].input_ids) for number in group)
            self._segments.append(Segment(len(sample.input_ids), lengths))
        if not sample.branches:
            self._add_labels(sample.labels, start=self._length - len(sample.input_ids), before=-1)
        for number, branch in enumerate(sample.branches):
            start, last_of_prefix = starts[number]
            self._add_labels(branch.labels, start=start, before=last_of_prefix)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        input_ids = _cat(self._ids)
        return Batch(
            input_ids=input_ids,
            segments=tuple(self._segments),
            pictures=tuple(picture for sample in samples for picture in sample.pictures),
            picture_positions=(input_ids < 0).nonzero().flatten(),
            picture_rows=_cat(self._picture_rows),
            num_picture_tokens=self._num_picture_tokens,
            label_positions=_cat(self._label_positions),
            labels=_cat(self._labels),
            where=tuple(sample.where for sample in samples),
        )

    def _append(self, input_ids: Tensor) -> None:
        self._ids.append(input_ids)
        self._length += len(input_ids)

    def _add_labels(self, labels: Tensor, *, start: int, before: int) -> None:
        """Add what is trained of tokens that begin at `start` and follow on the token at `before`."""
        trained = (labels != IGNORED).nonzero().flatten()
        self._label_positions.append(torch.where(trained == 0, before, start + trained - 1))
        self._labels.append(labels[trained])


def _groups(sample: Sample, original_max_positions: int | None) -> list[list[int]]:
    """The numbers of the branches that share one copy of the prefix, copy by copy."""
    numbers = list(range(len(sample.branches)))
    if not numbers:
        return [[]]
    if original_max_positions is None:
        return [[number] for number in numbers]
    room = original_max_positions - len(sample.input_ids)
    is_long = [len(branch.input_ids) > room for branch in sample.branches]
    groups = [[number for number in numbers if is_long[number] == side] for side in (False, True)]
    return [group for group in groups if group]


def _check(sample: Sample) -> None:
    where = f"{sample.where}: " if sample.where else ""
    if (sample.labels[:1] != IGNORED).any():
        raise ValueError(f"{where}the first token has a label, but nothing comes before it")
    if not sample.branches:
        return
    if (sample.labels != IGNORED).any():
        raise ValueError(f"{where}a sample with branches has labels outside of them")
    if not len(sample.input_ids):
        raise ValueError(f"{where}a sample with branches has nothing before them")
    if any((branch.input_ids < 0).any() for branch in sample.branches):
        raise ValueError(f"{where}a branch has a picture; pictures must stand before the branches")


def _cat(parts: list[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])
