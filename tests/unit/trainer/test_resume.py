"""A run that continues from a checkpoint is the run that was never interrupted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.build import build_engine, load_method
from phitune_trainer.checkpoint.saver import Saver
from phitune_trainer.checkpoint.start import begin
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Superseded
from phitune_trainer.incarnation import claim
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout, steps_in
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA: dict[str, Any] = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": False}}
STEPS = {"training": {"maxSteps": 4, "microBatchSize": 3}, "checkpoint": {"everySteps": 1, "keep": 9}}


def whole_run(config: TrainConfig) -> Callable[[World], str]:
    def run(world: World) -> str:
        reports = Path(config.run.workspace, "reports")
        reports.mkdir(exist_ok=True)
        progress = Progress(attempt=1)
        return run_rank(
            config, world, Narrator(world.rank, reports, progress), progress, StopRequest(), InProcess()
        )

    return run


def losses(config: TrainConfig, incarnation: int) -> dict[int, float]:
    metrics = RunLayout(config.run_dir).incarnation(incarnation).metrics
    return {row["step"]: row["loss"] for row in map(json.loads, metrics.read_text().splitlines())}


def forget_after(config: TrainConfig, step: int) -> None:
    """Make it look as if the run had died just after it saved `step`."""
    layout = RunLayout(config.run_dir)
    layout.result.unlink(missing_ok=True)
    newest = layout.incarnation(layout.incarnation_numbers()[-1])
    for later in steps_in(newest.checkpoints):
        if later > step:
            shutil.rmtree(newest.checkpoint(later))


@pytest.mark.parametrize("method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="lora-with-dropout")])
def test_resuming_repeats_the_losses_bit_for_bit(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**method, **STEPS, world={"processesPerNode": 2})
    in_ranks(2, whole_run(config))
    forget_after(config, 2)
    in_ranks(2, whole_run(config))
    first, second = losses(config, 1), losses(config, 2)
    assert list(second) == [3, 4]
    assert second == {step: first[step] for step in (3, 4)}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param({}, id="zero2"),
        pytest.param({**LORA, "lora": {**LORA["lora"], "dropout": 0.0}}, id="lora", marks=pytest.mark.slow),
    ],
)
def test_a_run_continues_at_other_numbers_of_ranks(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    """All other orders: test_any_order.py."""
    worlds = (1, 3, 2)

    def config_for(ranks: int) -> TrainConfig:
        training = {"maxSteps": len(worlds) + 1, "microBatchSize": 1}
        return make_config(
            **method,
            training=training,
            checkpoint={"everySteps": 1, "keep": 9},
            world={"processesPerNode": ranks},
        )

    for number, ranks in enumerate(worlds, start=1):
        in_ranks(ranks, whole_run(config_for(ranks)))
        if number < len(worlds):
            forget_after(config_for(ranks), number)
    expected = losses(config_for(1), 1)
    for number in range(2, len(worlds) + 1):
        steps = range(number, len(worlds) + 2)
        assert losses(config_for(1), number) == pytest.approx({one: expected[one] for one in steps}, rel=1e-5)


def test_a_damaged_checkpoint_is_passed_over_and_a_finished_run_stays_as_it_is(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**STEPS)
    in_ranks(1, whole_run(config))
    layout = RunLayout(config.run_dir)
    assert "complete since" in in_ranks(1, whole_run(config))[0]
    assert layout.incarnation_numbers() == [1]
    forget_after(config, 3)
    (layout.incarnation(1).checkpoint(3) / "trainer.json").write_text("{}")
    in_ranks(1, whole_run(config))
    assert json.loads(layout.incarnation(2).start.read_text())["from"] == {"incarnation": 1, "step": 2}
    assert list(losses(config, 2)) == [3, 4]


def test_a_start_that_a_newer_one_has_replaced_ends_at_its_next_save(make_config: Any, in_ranks: Any) -> None:
    config = make_config()
    layout = RunLayout(config.run_dir)

    def save_after_another_start(world: World) -> str:
        start = begin(config, world, attempt=1)
        engine = build_engine(config, load_method(config, world), world)
        world.from_first(lambda: claim(layout))
        saver = Saver(layout, start, world, keep=2)
        saver.begin(1, engine, {})
        with pytest.raises(Superseded) as refused:
            saver.finish(lambda written, total: None)
        return str(refused.value)

    messages = in_ranks(2, save_after_another_start)
    assert messages == ["incarnation 2 of this run has started; this one, 1, ends here"] * 2
    assert steps_in(layout.incarnation(1).checkpoints) == []


def test_only_the_newest_checkpoints_are_kept(make_config: Any, in_ranks: Any) -> None:
    config = make_config(training={"maxSteps": 4}, checkpoint={"everySteps": 1, "keep": 2})
    in_ranks(1, whole_run(config))
    assert steps_in(RunLayout(config.run_dir).incarnation(1).checkpoints) == [3, 4]
