"""A run from its first step to its exports, in one process of its own."""

from pathlib import Path
from typing import Any

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank


def finished(config: TrainConfig, in_ranks: Any) -> RunLayout:
    """Carry the run out; `in_ranks` as the fixture of that name."""

    def run(world: World) -> str:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        return run_rank(config, world, narrator, progress, StopRequest(), InProcess())

    in_ranks(1, run)
    return RunLayout(config.run_dir)
