"""A crash between any two file operations of a run, a volume that is full at any of them: nothing is lost.

The states that a volume may be in after a crash are made from what runs really did, operation by operation
(harness/crashes.py), and a run is continued from each of them.
"""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.crashes import Crash, Volume, crashes, lay_out, read_tree
from harness.file_operations import Operation, watching
from harness.tiny_run import TinyRun
from phitune_trainer.checkpoint.files import check
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.incarnation import line_before
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import IncarnationFolder, RunLayout, steps_in
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

STEPS = 4
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": False}}


def at(workspace: Path, config: TrainConfig) -> TrainConfig:
    """The config with another volume."""
    return config.model_copy(update={"run": config.run.model_copy(update={"workspace": str(workspace)})})


def newest_said(said: list[str], word: str) -> int:
    return max((int(line.split()[-1]) for line in said if line.startswith(word)), default=0)


@pytest.mark.slow
def test_after_a_crash_at_any_point_the_losses_are_those_of_a_run_without_one(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(checkpoint={"keep": 1})
    expected = TinyRun(at(tmp_path / "whole", config)).go(STEPS).losses
    runs = tmp_path / "crashing"
    runs.mkdir()
    with watching(runs) as journal:
        # Two starts, so that the second has to remove what the first one leaves.
        TinyRun(at(runs, config), say=journal.say).go(STEPS // 2)
        TinyRun(at(runs, config), say=journal.say).go(STEPS)
    volume = Volume()
    for operation in journal.operations:
        volume.apply(operation)
    assert volume.now() == read_tree(runs), "the journal has every operation"

    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing crashes from here on
    found = crashes(journal.operations)
    for number, crash in enumerate(found):
        folder = tmp_path / f"{number}"
        lay_out(crash.tree, folder)
        for checkpoint in folder.rglob("step-*"):
            check(checkpoint)  # whatever has this name is whole
        told = TinyRun(at(folder, config)).go(STEPS)
        assert told.start.step >= newest_said(crash.said, "saved"), where(crash, journal.operations)
        assert told.losses == {step: expected[step] for step in range(told.start.step + 1, STEPS + 1)}
        assert told.trouble == []
        assert told.start.passed_over == [], where(crash, journal.operations)
        shutil.rmtree(folder)
    assert len(found) > 100


def test_a_volume_that_is_full_at_any_point_of_a_save_costs_that_checkpoint_and_no_other(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing crashes here
    config = make_config(checkpoint={"keep": 1})
    expected = TinyRun(at(tmp_path / "whole", config)).go(3).losses
    refused: list[Operation] = []
    for number in itertools.count():
        folder = tmp_path / f"{number}"
        layout = RunLayout(at(folder, config).run_dir)
        budget = Budget(number, folder)
        with watching(folder, budget.spend):
            told = TinyRun(at(folder, config), at_save=budget.spent_at(2)).go(3)
        if budget.refused is None:
            break
        refused.append(budget.refused)
        assert told.losses == expected
        [trouble] = told.trouble
        assert trouble.startswith("step 2"), trouble
        assert "cannot write" in trouble
        assert "the volume is full; enlarge it, or lower checkpoint.keep" in trouble
        assert steps_in(layout.incarnation(1).checkpoints) == [3]
        assert layout.incarnation(1).all_half_written() == []
        assert TinyRun(at(folder, config)).go(3).start.step == 3
        shutil.rmtree(folder)
    assert {one.kind for one in refused} == {"mkdir", "create", "write", "fsync", "rename"}


class Budget:
    """Of one save it takes so many operations that need room, and refuses the next one."""

    def __init__(self, size: int, volume: Path) -> None:
        self._volume = volume
        self._left: int | None = None
        self._size = size
        self.refused: Operation | None = None

    def spent_at(self, step: int) -> Callable[[int], None]:
        """What a run is to call at each save."""

        def at_save(now: int) -> None:
            self._left = self._size if now == step else None

        return at_save

    def spend(self, operation: Operation) -> None:
        if self._left is None or self.refused or operation.kind in ("unlink", "rmdir"):
            return
        if self._left == 0:
            self.refused = operation
            named = [] if operation.kind in ("write", "fsync") else [str(self._volume / operation.path)]
            raise OSError(errno.ENOSPC, "No space left on device", *named)
        self._left -= 1


@pytest.mark.slow
def test_real_training_on_two_ranks_continues_bit_for_bit_after_a_crash(
    tmp_path: Path, workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    config = make_config(
        **LORA,
        training={"maxSteps": 3, "microBatchSize": 3},
        checkpoint={"everySteps": 1, "keep": 1},
        world={"processesPerNode": 2},
    )
    runs = workspace / "runs"
    runs.mkdir()
    journals = in_ranks(2, lambda world: watched(world, config, runs))
    expected = losses(config)
    operations = sorted(itertools.chain(*journals), key=lambda operation: operation.at)
    found = [crash for crash in crashes(operations) if crash.after > len(operations) // 4]
    volumes = [tmp_path / f"crash-{number}" for number in range(4)]
    for number, volume in enumerate(volumes):
        lay_out(found[(2 * number + 1) * len(found) // (2 * len(volumes))].tree, volume / "runs")
        for shared in ("data", "models"):
            (volume / shared).symlink_to(workspace / shared)
    in_ranks(2, lambda world: [train_on(world, at(volume, config)) for volume in volumes])
    for volume in volumes:
        continued = losses(at(volume, config))
        assert continued == {step: expected[step] for step in continued}
        layout = RunLayout(at(volume, config).run_dir)
        assert next(line_before(layout, 99)).step == 3
    assert {len(losses(at(volume, config))) for volume in volumes} >= {1, 2}


def train_on(world: World, config: TrainConfig) -> str:
    """A whole run, or what is left of it, on one rank."""
    reports = Path(config.run.workspace, "reports")
    reports.mkdir(exist_ok=True)
    progress = Progress(attempt=1)
    return run_rank(
        config, world, Narrator(world.rank, reports, progress), progress, StopRequest(), InProcess()
    )


def watched(world: World, config: TrainConfig, folder: Path) -> list[Operation]:
    with watching(folder) as journal:
        train_on(world, config)
    return journal.operations


def newest_start(config: TrainConfig) -> IncarnationFolder:
    layout = RunLayout(config.run_dir)
    return layout.incarnation(layout.incarnation_numbers()[-1])


def losses(config: TrainConfig) -> dict[int, float]:
    """Of the newest start, by step; none where all steps had been saved."""
    metrics = newest_start(config).metrics
    rows = map(json.loads, metrics.read_text().splitlines() if metrics.is_file() else [])
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def where(crash: Crash, operations: list[Operation]) -> str:
    """What a failing test says of the point of the crash."""
    return f"after {operations[max(0, crash.after - 3) : crash.after + 1]}"
