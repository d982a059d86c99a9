"""The same seed, machine and number of ranks give the same bits; another seed does not."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

NUM_STEPS = 2
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": True}}


def state(config: TrainConfig, in_ranks: Any) -> list[str]:
    """Train from the start on two ranks: the digests of all that each of them then keeps."""

    def run(world: World) -> str:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        return run_rank(config, world, narrator, progress, StopRequest(), InProcess())

    in_ranks(2, run)
    files = RunLayout(config.run_dir).incarnation(1).checkpoint(NUM_STEPS).glob("state-*.safetensors")
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)]


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param({}, "fp32", id="zero2", marks=pytest.mark.slow),
        pytest.param(LORA, "bf16", id="lora-with-dropout"),
    ],
)
def test_the_same_seed_gives_the_same_bits(
    method: dict[str, Any], precision: str, make_config: Any, in_ranks: Any
) -> None:
    found = []
    for number, seed in enumerate([5, 5, 6]):
        config = make_config(
            **method,
            run={"uid": f"0000000{number}"},
            world={"processesPerNode": 2},
            training={"maxSteps": NUM_STEPS, "microBatchSize": 3, "precision": precision, "seed": seed},
        )
        found.append(state(config, in_ranks))
    assert len(found[0]) == 2
    assert found[1] == found[0]
    assert found[2] != found[0]
