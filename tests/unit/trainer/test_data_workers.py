"""Training with worker processes is training without them, only sooner."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer import batches
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import Workers, start_loader
from phitune_trainer.endings import ending_of
from phitune_trainer.engine.world import World
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank


def run(config: TrainConfig, num_workers: int) -> Callable[[World], tuple[int, str, str]]:
    def train(world: World) -> tuple[int, str, str]:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        loader = start_loader(num_workers)
        try:
            message = run_rank(config, world, narrator, progress, StopRequest(), loader)
        except Exception as error:  # noqa: BLE001 - as train.py does
            return ending_of(error)
        return 0, "Completed", message

    return train


def losses(config: TrainConfig) -> list[float]:
    metrics = RunLayout(config.run_dir).incarnation(1).metrics
    return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]


def test_the_losses_are_the_same_bit_for_bit_with_any_number_of_workers(
    make_config: Any, in_ranks: Any
) -> None:
    found = []
    for num_workers in (0, 2):
        uid = {"uid": f"0000000{num_workers}"}
        config = make_config(run=uid, training={"maxSteps": 3}, world={"processesPerNode": 2})
        assert [code for code, _, _ in in_ranks(2, run(config, num_workers))] == [0, 0]
        found.append(losses(config))
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_a_bad_picture_found_by_a_worker_ends_every_rank_with_its_file_and_line(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    (workspace / "data/colors/images/8.png").write_text("not a picture")
    endings = in_ranks(2, run(make_config(world={"processesPerNode": 2}), 1))
    assert endings[0] == endings[1]
    code, reason, message = endings[0]
    assert (code, reason) == (2, "UserError")
    assert "train.jsonl:9: picture" in message


class Hanging:
    """Samples on a volume that never answers."""

    num_skipped = 0

    def __init__(self, fifo: Path) -> None:
        self.fifo = fifo

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.fifo.read_text()

    def where(self, index: int) -> str:
        return f"train.jsonl:{index + 1}"


def test_a_worker_that_hangs_does_not_keep_a_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(batches, "_SECONDS_TO_END", 0.5)
    loader, dataset, collate = start_loader(1), Hanging(tmp_path / "fifo"), list
    make: Any = batches.BatchesAhead
    with make(dataset, loader, lambda step: [[0, 1]], collate, range(4)).running():
        pass
    assert isinstance(loader, Workers)
    assert loader.pids == []
