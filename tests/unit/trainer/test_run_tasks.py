"""Each task of the recipe, from its files on the volume through training to scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.parquet_data import CAULDRON, DOCVQA_1200, cauldron_row, docvqa_row, encoded, write_parquet
from harness.videos import write_video
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.ucf101 import convert, find_videos
from phitune_trainer.data.workers import start_loader
from phitune_trainer.engine.world import World
from phitune_trainer.narrator import Narrator
from phitune_trainer.prepare import prepare
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

YES_OR_NO = [("Is it grey?\nAnswer yes or no.", "Yes."), ("Is it red?\nAnswer yes or no.", "No.")]


def run(config: TrainConfig, num_workers: int = 0) -> Callable[[World], list[str]]:
    """Train one rank; the lines that it says."""

    def train(world: World) -> list[str]:
        said: list[str] = []
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        narrator.say = said.append  # type: ignore[method-assign]
        run_rank(config, world, narrator, progress, StopRequest(), start_loader(num_workers))
        return said

    return train


def task_config(make_config: Any, task: str, **groups: Any) -> TrainConfig:
    config: TrainConfig = make_config(
        task=task,
        data={"path": f"data/{task}"},
        training={"maxSteps": 2, "globalBatchSize": 4, "microBatchSize": 1, "numCrops": 2},
        evaluation={"enabled": True, "maxSamples": 3},
        **groups,
    )
    return config


def evaluation(config: TrainConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """metrics.json and the rows of predictions.jsonl after the last step."""
    folder = RunLayout(config.run_dir).incarnation(1).evaluation(2)
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "metrics.json").read_text()), [json.loads(row) for row in rows]


def test_docvqa_trains_all_questions_of_its_pages_and_is_scored_by_anls(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    folder = workspace / "data/docvqa"
    pages = [
        cauldron_row(
            (f"Which page is {number}?\nBe brief.", f"Page {number}."),
            ("What colour?", "Grey."),
            images=[encoded(60, 80, grey=20 * number)],
        )
        for number in range(6)
    ]
    write_parquet(folder / "docvqa/train-00000-of-00001-abc.parquet", CAULDRON, pages)
    test = [docvqa_row("What colour?", "Grey", "gray")] * 3
    write_parquet(folder / "data/test-00000-of-00001-abc.parquet", DOCVQA_1200, test)
    config = task_config(make_config, "docvqa", world={"processesPerNode": 2})
    prepared: list[str] = []
    prepare(config, prepared.append)
    said, _ = in_ranks(2, run(config, num_workers=1))
    for lines in (prepared, said):
        words = " ".join(" ".join(lines).split())
        assert "6 pages with 12 questions to train on: the full training split of DocVQA" in words
        assert "3 held out to score: the mini test split of DocVQA" in words
    metrics, rows = evaluation(config)
    assert (metrics["metric"], metrics["samples"]) == ("anls", 3)
    assert [row["answers"] for row in rows] == [["Grey", "gray"]] * 3


@pytest.mark.parametrize(
    ("task", "file", "num_pictures", "detail"),
    [
        pytest.param("nlvr2", "nlvr2/train-0.parquet", 2, "consistency", id="nlvr2"),
        pytest.param("hatefulMemes", "hateful_memes/train-0.parquet", 1, "auroc", id="hatefulMemes"),
    ],
)
def test_what_is_answered_yes_or_no_is_scored_by_accuracy(
    task: str, file: str, num_pictures: int, detail: str, workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    rows = [cauldron_row(YES_OR_NO[number % 2], images=[encoded()] * num_pictures) for number in range(504)]
    write_parquet(workspace / "data" / task / file, CAULDRON, rows, group_size=100)
    config = task_config(make_config, task)
    (said,) = in_ranks(1, run(config))
    assert "4 pages with 4 questions to train on" in " ".join(" ".join(said).split())
    metrics, answered = evaluation(config)
    assert (metrics["metric"], metrics["samples"]) == ("accuracy", 3)
    assert detail in metrics["details"]
    assert [row["answers"] for row in answered] == [["Yes."], ["No."], ["Yes."]]


def test_ucf101_trains_on_the_frames_of_converted_videos(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_video(workspace / f"videos/{split}/Archery/v_{number}.avi", 8)
    out = workspace / "data/ucf101"
    convert(find_videos(workspace / "videos"), out, workers=1, on_progress=lambda done, total: None)
    config = task_config(make_config, "ucf101")
    (said,) = in_ranks(1, run(config))
    words = " ".join(" ".join(said).split())
    assert "3 samples to train on: eight frames of the training videos of UCF-101" in words
    assert "2 held out to score: eight frames of the validation videos" in words
    metrics, answered = evaluation(config)
    assert metrics["metric"] == "accuracy"
    assert [row["answers"] for row in answered] == [["Archery"]] * 2
