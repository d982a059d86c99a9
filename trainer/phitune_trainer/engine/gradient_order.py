"""A watch over the order in which a model's gradients come.

DeepSpeed fills its buckets with gradients as the backward pass brings them, and adds the ranks' buckets place
by place. Where two ranks brought theirs in different orders it would add gradients of different parameters,
and nobody would notice.
"""

from functools import partial
from itertools import zip_longest
from zlib import crc32

import torch

from phitune_trainer.engine.world import World


class GradientOrder:
    """Holds the passes of a step on each rank against those on the others."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], world: World) -> None:
        self._world = world
        self._names: list[str] = []
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._note, name)
            )

    def check(self) -> None:
        """Called when the passes of a step are done; collective. RuntimeError where the ranks differ."""
        names, self._names = self._names, []
        digest = crc32("\n".join(names).encode()) & 0xFFFFFF  # so that the sum of squares fits into 64 bits
        total, squares = self._world.sum([digest, digest**2])
        if squares * self._world.size == total**2:  # only where all are the same
            return
        every_rank = zip_longest(*self._world.gather(names), fillvalue="nothing")
        differing = next(came for came in every_rank if len(set(came)) > 1)
        raise RuntimeError(
            "the gradients came in another order on some ranks than on others, first "
            f"{', '.join(differing)}: their sums are wrong, and the weights stay as they were"
        )

    def _note(self, name: str, _: torch.Tensor) -> None:
        self._names.append(name)
