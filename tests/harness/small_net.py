"""A net of a few linears, one of which a pass may leave out: engines are tested with it, not the model."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu

from phitune_trainer.engine import Engine
from phitune_trainer.engine.data_parallel import DataParallel
from phitune_trainer.engine.world import World
from phitune_trainer.engine.zero2 import Zero2

WEIGHT_DECAY = 0.01


class SmallNet(nn.Module):
    """The same weights whenever it is made."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Linear(6, width)
        self.pictures = nn.Linear(6, width)
        self.deep = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(
        self, x: torch.Tensor, *, with_picture: bool = True, pictures_first: bool = False
    ) -> torch.Tensor:
        """A scalar; the order of the two inputs changes nothing but the order of the gradients."""
        inputs = [self.words, self.pictures] if with_picture else [self.words]
        hidden = {layer: layer(x) for layer in (inputs[::-1] if pictures_first else inputs)}
        answers = self.head(gelu(self.deep(gelu(sum(hidden[layer] for layer in inputs)))))
        return answers.float().square().sum()


def numbers(step: int, rank: int) -> torch.Tensor:
    """What a rank's pass is about."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(5, 6, generator=generator)


def engine_of(kind: str, net: nn.Module, world: World, precision: Any = "fp32") -> Engine:
    """The engine of that name: "data-parallel", "zero2" or "zero2-offloaded"."""
    if kind == "data-parallel":
        return DataParallel(net, world, weight_decay=WEIGHT_DECAY, precision=precision, bucket_elements=200)
    offloaded = kind == "zero2-offloaded"
    return Zero2(net, world, weight_decay=WEIGHT_DECAY, precision=precision, offload_optimizer=offloaded)


def state_of(engine: Engine) -> dict[tuple[str, str, int], list[float]]:
    """All that this rank keeps, by kind, parameter and place."""
    return {(part.kind, part.name, part.start): part.values.tolist() for part in engine.fragments()}
