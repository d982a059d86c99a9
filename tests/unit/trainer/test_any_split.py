"""A step is the same loss and the same gradients, whoever computes which of its samples, and how."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.tiny_models import gradients, sample, small_model
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.costs import cost_of, costs_file
from phitune_trainer.data.plan import share_out
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.model import Sample, collate
from phitune_trainer.narrator import Narrator
from phitune_trainer.prepare import prepare
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

torch.set_num_threads(1)

STEP = [
    sample(8, seed=1),
    sample(70, grids=[(2, 1), (1, 2)], seed=2),  # long: other rotary factors
    sample(12, grids=[(1, 1)], seed=3),
    sample(40, labels=9, seed=4),
    sample(12, grids=[(2, 2)], labels=1, seed=5),
    sample(65, seed=6),
    sample(9, seed=7),
    sample(20, grids=[(1, 2)], labels=5, seed=8),
]
"""The samples of a step: short and long, with and without pictures."""


def cost(index: int) -> int:
    one: Sample = STEP[index]
    return cost_of(len(one.input_ids), int((one.input_ids < 0).sum()))


def step(plan: list[list[list[int]]], *, recompute: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of the step, the passes of all ranks one after the other."""
    model = small_model()
    model.set_gradient_checkpointing(recompute)
    num_label_tokens = sum(one.num_label_tokens for one in STEP)
    loss = torch.zeros(())
    for rank in plan:
        for piece in rank:
            share = model(collate([STEP[index] for index in piece])) / num_label_tokens
            share.backward()
            loss += share.detach()
    return loss, gradients(model)


EXPECTED = step([[list(range(len(STEP)))]], recompute=False)


@given(
    world=st.integers(1, 4),
    samples_per_pass=st.integers(1, 4),
    is_measured=st.booleans(),
    recompute=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_loss_and_gradients_of_a_step_do_not_depend_on_the_plan(
    world: int, samples_per_pass: int, is_measured: bool, recompute: bool
) -> None:
    plan = share_out(
        range(len(STEP)), cost if is_measured else lambda _: 1, world=world, micro_batch=samples_per_pass
    )
    loss, found = step(plan, recompute=recompute)
    torch.testing.assert_close(loss, EXPECTED[0], rtol=1e-5, atol=0)
    assert found.keys() == EXPECTED[1].keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, EXPECTED[1][name], rtol=0, atol=1e-5, msg=name)


def uneven(workspace: Path) -> None:
    """Training samples of no, one or two pictures of up to four crops, in no order."""
    folder = workspace / "data" / "uneven"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(24):
        names = [f"{number}-{one}.png" for one in range(number * number % 5 % 3)]
        for name in names:
            colour = (10 * number, 255 - 10 * number, 80)
            Image.new("RGB", (40, 40 if number % 2 else 10), colour).save(folder / "images" / name)
        answer = " ".join(["red"] * (1 + number % 3))
        turn = {"images": names, "user": "What? " * (1 + number % 7), "assistant": answer}
        lines.append(json.dumps({"conversations": [turn]}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))


def run(config: TrainConfig) -> Any:
    """A run as a rank takes part in it."""

    def rank(world: World) -> str:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        return run_rank(config, world, narrator, progress, StopRequest(), InProcess())

    return rank


def numbers(config: TrainConfig) -> list[tuple[float, float]]:
    """Loss and norm of the gradient of each step."""
    lines = RunLayout(config.run_dir).incarnation(1).metrics.read_text().splitlines()
    return [(step["loss"], step["gradNorm"]) for step in map(json.loads, lines)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param({}, id="zero2"),
        pytest.param(
            {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}},
            id="adapters",
        ),
    ],
)
def test_runs_that_share_their_steps_out_differently_take_the_same_steps(
    method: dict[str, Any], workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    """1, 2, 3 and 4 ranks, with and without packing, of which one has not measured what samples cost."""
    uneven(workspace)
    found = []
    splits = [(1, 12, True, False), (2, 3, True, True), (3, 2, False, True), (4, 1, True, True)]
    for ranks, micro_batch, packing, is_prepared in splits:
        config = make_config(
            **method,
            run={"uid": f"0000000{ranks}"},
            data={"path": "data/uneven"},
            world={"processesPerNode": ranks},
            training={
                "maxSteps": 3,
                "numCrops": 4,
                "microBatchSize": micro_batch,
                "packing": packing,
                "gradientCheckpointing": ranks == 2,
            },
        )
        if is_prepared:
            prepare(config, lambda _: None)
        assert costs_file(config).is_file() == is_prepared
        in_ranks(ranks, run(config))
        found.append(numbers(config))
    assert len(found[0]) == 3
    for other in found[1:]:
        assert other == [pytest.approx(step, rel=1e-5) for step in found[0]]
