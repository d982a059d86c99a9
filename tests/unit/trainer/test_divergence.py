"""A step whose numbers are not finite never reaches the weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.data import collate
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.loop import Diverged
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout, steps_in
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}


@pytest.mark.parametrize("method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="data-parallel")])
def test_an_engine_leaves_the_weights_alone_when_the_gradient_is_not_finite(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**method)

    def run(world: World) -> tuple[bool, float]:
        samples, _ = load_datasets(config)
        loaded = load_method(config, world)
        engine = build_engine(config, loaded, world)
        before = {name: weight.detach().clone() for name, weight in engine.parameters.items()}
        engine.backward(loaded.model(collate([samples[0]])) * float("nan"), is_last=True)
        norm = float(engine.step(1e-3))
        return all(torch.equal(before[name], w) for name, w in engine.parameters.items()), norm

    [(is_unchanged, norm)] = in_ranks(1, run)
    assert is_unchanged
    assert not torch.isfinite(torch.tensor(norm))


def test_a_loss_that_is_not_finite_ends_every_rank_with_the_step_and_the_samples(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    model = workspace / "models" / "tiny"
    whole = model.resolve()
    model.unlink()
    shutil.copytree(whole, model)
    file = next(model.glob("*.safetensors"))
    tensors = load_file(file)
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
    config = make_config(world={"processesPerNode": 2}, checkpoint={"everySteps": 1})

    def run(world: World) -> str:
        progress = Progress(attempt=1)
        with pytest.raises(Diverged) as ended:
            run_rank(
                config, world, Narrator(world.rank, workspace, progress), progress, StopRequest(), InProcess()
            )
        return str(ended.value)

    messages = in_ranks(2, run)
    assert messages[0] == messages[1]
    assert messages[0].startswith("step 1: the loss is nan; look at the samples ")
    assert messages[0].count("train.jsonl:") == 8
    assert "and 4 more" in messages[0]
    assert steps_in(RunLayout(config.run_dir).incarnation(1).checkpoints) == []
