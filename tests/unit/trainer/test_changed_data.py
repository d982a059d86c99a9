"""A run does not continue on training data that has changed since it began."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.parquet_data import CAULDRON, cauldron_row, write_parquet
from phitune_trainer.data import JsonlDataset, Processor
from phitune_trainer.data.parquet import ParquetRows
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_data
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    path = tmp_path / "runs" / "tests" / "colors" / "00000001"
    path.mkdir(parents=True)
    return RunLayout(path)


@pytest.fixture
def open_samples(workspace: Path, base_model: Path) -> Any:
    folder = workspace / "data" / "colors"
    processor = Processor.load(base_model, num_crops=1)
    return lambda: JsonlDataset(folder / "train.jsonl", folder / "images", processor, 512)


def edit(workspace: Path, *lines: str) -> None:
    (workspace / "data" / "colors" / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_line_more_or_moved_is_named_and_refused(
    layout: RunLayout, open_samples: Any, workspace: Path
) -> None:
    lines = (workspace / "data" / "colors" / "train.jsonl").read_text().splitlines()
    keep_data(layout, open_samples(), is_continued=False)
    keep_data(layout, open_samples(), is_continued=True)
    edit(workspace, *lines, lines[0])
    with pytest.raises(UserError, match=r"(?s)put the data back.*samples: was 24, now 25"):
        keep_data(layout, open_samples(), is_continued=True)
    edit(workspace, *reversed(lines))
    with pytest.raises(UserError, match=r"places of the lines \(digest\): was \w+, now \w+$"):
        keep_data(layout, open_samples(), is_continued=True)
    edit(workspace, *lines)
    keep_data(layout, open_samples(), is_continued=True)


def test_data_may_change_before_the_first_checkpoint(
    layout: RunLayout, open_samples: Any, workspace: Path
) -> None:
    keep_data(layout, open_samples(), is_continued=False)
    lines = (workspace / "data" / "colors" / "train.jsonl").read_text().splitlines()
    edit(workspace, *lines[:20])
    keep_data(layout, open_samples(), is_continued=False)
    keep_data(layout, open_samples(), is_continued=True)
    assert json.loads(layout.data.read_text())["samples"] == 20


def test_a_run_from_before_this_was_recorded_continues(layout: RunLayout, open_samples: Any) -> None:
    keep_data(layout, open_samples(), is_continued=True)
    assert layout.data.is_file()


def test_a_start_that_continues_looks_at_the_data(make_config: Any, in_ranks: Any, workspace: Path) -> None:
    config = make_config(training={"maxSteps": 2}, checkpoint={"everySteps": 1, "keep": 9})

    def start(world: World) -> str:
        reports = workspace / "reports"
        reports.mkdir(exist_ok=True)
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, reports, progress)
        try:
            return run_rank(config, world, narrator, progress, StopRequest(), InProcess())
        except UserError as problem:
            return str(problem)

    in_ranks(1, start)
    layout = RunLayout(config.run_dir)
    layout.result.unlink()
    shutil.rmtree(layout.incarnation(1).checkpoint(2))
    lines = (workspace / "data" / "colors" / "train.jsonl").read_text().splitlines()
    edit(workspace, *lines[1:])
    assert "samples: was 24, now 23" in in_ranks(1, start)[0]
    shutil.rmtree(layout.incarnation(1).checkpoint(1))
    assert "samples: was 24" not in in_ranks(1, start)[0]


def test_rows_and_sizes_of_parquet_files_are_known(tmp_path: Path) -> None:
    def sizes(*questions: str) -> dict[str, int]:
        rows = [cauldron_row((question, "answer")) for question in questions]
        return ParquetRows([write_parquet(tmp_path / "a.parquet", CAULDRON, rows)], {}).sizes()

    first = sizes("a")
    assert first == {"bytes of a.parquet": (tmp_path / "a.parquet").stat().st_size, "rows": 1}
    assert sizes("a", "b")["rows"] == 2
    assert sizes("a longer question")["bytes of a.parquet"] != first["bytes of a.parquet"]
