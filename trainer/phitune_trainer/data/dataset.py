"""What training and evaluation ask of a data set, whatever file it comes from.

Both kinds hold paths and places in files, never open files or pictures: they are sent to worker processes.
Every error in a sample is a DataError that names its place.
"""

import hashlib
from array import array
from collections.abc import Mapping
from typing import Protocol

from phitune_trainer.model import Sample

Identity = Mapping[str, int | str]
"""What tells a data set from one that was changed, by names for people; the same wherever the files lie."""


class TrainingSamples(Protocol):
    """Samples to train on, each encoded and its pictures decoded when it is taken."""

    num_skipped: int
    """Samples left out because they are longer than maxLength."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """A sample with what is trained labelled. Raises DataError."""

    def identity(self) -> Identity:
        """How many samples there are, where they lie in their files, and the sizes of the files.

        No content is read: a change that moves nothing and keeps every length is not seen.
        """

    def where(self, index: int) -> str:
        """The place of a sample, as "file:line"."""


class Questions(Protocol):
    """Held-out samples: what the model is asked, and the answers that count as right."""

    num_skipped: int
    """Samples left out because they are longer than maxLength."""

    def __len__(self) -> int: ...

    def prompt(self, index: int) -> Sample:
        """A sample up to its answer, which is left out. Raises DataError."""

    def question(self, index: int) -> str:
        """The text of what a sample asks. Raises DataError."""

    def answers(self, index: int) -> tuple[str, ...]:
        """All answers that are accepted; at least one. Raises DataError."""

    def where(self, index: int) -> str:
        """The place of a sample, as "file:line"."""

    def group(self, index: int) -> str:
        """What ties samples together that are scored as one, as NLVR2's statement does; "" for none."""

    def pictures(self, index: int) -> tuple[str, ...]:
        """Names of the pictures of a sample, for people. Raises DataError."""


def digest_of(*numbers: "array[int]") -> str:
    """Twelve hexadecimal digits of the SHA-256 of some arrays."""
    digest = hashlib.sha256()
    for each in numbers:
        digest.update(f"{len(each)};".encode())
        digest.update(each.tobytes())
    return digest.hexdigest()[:12]
