"""A run that counts how often its vision part is asked."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.model.clip import ClipTower
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank


def run_counting_pictures(config: TrainConfig) -> Callable[[World], list[int]]:
    """A run as a rank takes part in it; how often its CLIP sees each picture, in order of the first time."""

    def rank(world: World) -> list[int]:
        seen = Counter[bytes]()
        forward = ClipTower.forward

        def counted(self: ClipTower, crops: torch.Tensor) -> torch.Tensor:
            seen[crops.numpy().tobytes()] += 1
            return forward(self, crops)

        ClipTower.forward = counted  # type: ignore[method-assign]
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        run_rank(config, world, narrator, progress, StopRequest(), InProcess())
        return list(seen.values())

    return rank
