"""A run that is stopped while it scores goes on scoring where it was, and only with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Interrupted
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}


class StopsAt(StopRequest):
    """A request to stop that comes when something has happened."""

    def __init__(self, has_happened: Callable[[], bool]) -> None:
        self._has_happened = has_happened

    @property
    def requested(self) -> bool:
        return self._has_happened()


def some_answers(layout: RunLayout, step: int) -> Callable[[], bool]:
    """Whether a rank has kept at least two answers of the evaluation of this step."""

    def are_there() -> bool:
        files = layout.incarnations.glob(f"*/eval/step-{step:08d}/partial-*.jsonl")
        return any(len(file.read_text().splitlines()) >= 3 for file in files)

    return are_there


def run(config: TrainConfig, stop: StopRequest) -> Callable[[World], str]:
    def one_rank(world: World) -> str:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        try:
            return run_rank(config, world, narrator, progress, stop, InProcess())
        except Interrupted as reason:
            return str(reason)

    return one_rank


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("method", "stopped_at"),
    [
        pytest.param({}, 2, id="full, at the end", marks=pytest.mark.slow),
        pytest.param(LORA, 1, id="lora, between two steps"),
        pytest.param(LORA, 0, id="the base model", marks=pytest.mark.slow),
    ],
)
def test_answers_of_a_stopped_evaluation_are_not_asked_again_by_more_ranks(
    method: dict[str, Any],
    stopped_at: int,
    make_config: Any,
    in_ranks: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    one, two = (
        make_config(
            **method,
            world={"processesPerNode": ranks},
            training={"maxSteps": 2, "globalBatchSize": 4, "microBatchSize": 2},
            data={"eval": "eval.jsonl"},
            evaluation={"enabled": True, "baseline": True, "everySteps": 1},
        )
        for ranks in (1, 2)
    )
    layout = RunLayout(one.run_dir)
    (said,) = in_ranks(1, run(one, StopsAt(some_answers(layout, stopped_at))))
    assert said.startswith(
        f"stopped after step {stopped_at}" if stopped_at else "stopped before the first step"
    )
    assert "samples were answered before" not in capfd.readouterr().out
    first = layout.incarnation(1).evaluation(stopped_at)
    assert not (first / "metrics.json").exists()

    ends = in_ranks(2, run(two, StopsAt(never)))
    assert ends[0] == ends[1]
    assert ends[0].startswith("done: 2 steps; exactMatch 0.")
    printed = capfd.readouterr().out
    assert printed.count("samples were answered before") == 1
    assert "2 of 5 samples were answered before; going on from there" in printed
    folder = layout.incarnation(2).evaluation(stopped_at)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["sample"].rpartition(":")[2] for row in rows] == ["1", "2", "3", "4", "5"]
    kept = [json.loads(line) for line in (first / "partial-00000.jsonl").read_text().splitlines()[1:]]
    assert [row["prediction"] for row in rows[:2]] == [row["prediction"] for row in kept]
    result = json.loads(layout.result.read_text())
    evaluation = result["evaluation"]
    assert (evaluation["samples"], evaluation["step"]) == (5, 2)
    assert evaluation["low"] <= evaluation["value"] <= evaluation["high"]
    assert evaluation["baseline"] is not None
