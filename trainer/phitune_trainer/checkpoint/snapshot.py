"""A rank's state as it was at one step, so that it can be written while the next steps change the weights."""

from collections.abc import Iterable

import torch

from phitune_trainer.engine import Fragment


class Snapshot:
    """Copies in the host's memory, which is taken at the first save and kept for the next ones.

    Taking fresh memory for each save would cost more time than the copy itself, and could fail late.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], torch.Tensor] = {}

    def take(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Copy the fragments. Those of the call before are overwritten."""
        return [self._copy(part) for part in fragments]

    def _copy(self, part: Fragment) -> Fragment:
        key = (part.kind, part.name, part.start)
        if key not in self._held:
            self._held[key] = torch.empty(part.values.shape, dtype=torch.float32, device="cpu")
        return Fragment(part.kind, part.name, part.start, self._held[key].copy_(part.values))
