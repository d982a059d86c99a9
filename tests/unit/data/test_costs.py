"""What samples cost to train, as prepare finds it out for the ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.parquet_data import CAULDRON, cauldron_row, encoded, write_parquet
from harness.train_configs import train_config
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import DataError, Processor
from phitune_trainer.data.check import DataReport
from phitune_trainer.data.costs import cost_of, costs_file, read_costs, write_costs
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import open_task
from phitune_trainer.prepare import prepare

torch.set_num_threads(1)


def job(volume: Path, task: str = "jsonl") -> TrainConfig:
    """A job on a tiny model, whose data lies in the folder `data`."""
    return train_config(
        volume,
        {
            "task": task,
            "data": {"path": "data", "generate": None, "eval": None},
            "training": {"numCrops": 4, "maxLength": 400},
            "evaluation": {"enabled": False, "baseline": False},
        },
    )


def prepared(config: TrainConfig) -> tuple[TrainingSamples, list[int], list[str]]:
    """The samples of a job, what they cost according to prepare, and what it said."""
    said: list[str] = []
    prepare(config, said.append)
    samples = open_task(config, Processor.load(config.model_dir, config.training.num_crops))[0]
    costs = read_costs(costs_file(config), samples)
    assert costs is not None
    return samples, list(costs), said


def write_lines(volume: Path, *turns: dict[str, Any]) -> None:
    """Training samples of one turn each, beside pictures of one and of four crops."""
    images = volume / "data" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (40, 10)).save(images / "flat.png")
    Image.new("RGB", (40, 40)).save(images / "square.png")
    lines = (json.dumps({"conversations": [{"assistant": "Yes.", **turn}]}) + "\n" for turn in turns)
    (volume / "data" / "train.jsonl").write_text("".join(lines))


def test_the_costs_of_a_jsonl_file_are_those_of_the_samples_that_are_trained(tmp_path: Path) -> None:
    write_lines(
        tmp_path,
        {"user": "What?"},
        {"user": "too long " * 400},
        {"images": ["flat.png"], "user": "What?"},
        {"images": ["square.png"], "user": "What?"},
    )
    samples, costs, said = prepared(job(tmp_path))
    assert samples.num_skipped == 1
    expected = []
    for index in range(3):
        ids = samples[index].input_ids
        expected.append(cost_of(len(ids), int((ids < 0).sum())))
    assert costs == expected
    assert costs[0] < costs[1] < costs[2]
    assert any("the costliest sample takes 1." in line for line in said)


def test_the_costs_of_pages_are_found_without_decoding_and_close_to_what_they_are(tmp_path: Path) -> None:
    """Pages of one picture and one to four crops; two questions of the third are left out as too long."""
    rows = [
        cauldron_row(("What is the date?", "May 7."), images=[encoded(40, 10)]),
        cauldron_row(*[("What is the date?", "May 7.")] * 5, images=[encoded(40, 40)]),
        cauldron_row(("Who?", "A."), *[("long " * 300, "B.")] * 2, images=[encoded(40, 20)]),
        cauldron_row(("long " * 300, "B."), images=[encoded(40, 20)]),
        cauldron_row(("Who?", "A."), images=[encoded(20, 40)]),
    ]
    write_parquet(tmp_path / "data/docvqa/train-0.parquet", CAULDRON, rows)
    samples, costs, _ = prepared(job(tmp_path, task="docvqa"))
    assert len(samples) == 4
    for index, cost in enumerate(costs):
        sample = samples[index]
        real = cost_of(sample.num_tokens, int((sample.input_ids < 0).sum()))
        assert cost == pytest.approx(real, rel=0.5), index
    assert costs[1] == max(costs)


def test_a_page_whose_picture_is_none_is_named_before_the_run_starts(tmp_path: Path) -> None:
    pictures = [encoded(), {"bytes": b"x", "path": None}]
    rows = [cauldron_row(("What?", "x"), images=[each]) for each in pictures]
    write_parquet(tmp_path / "data/docvqa/train-0.parquet", CAULDRON, rows)
    with pytest.raises(DataError, match=r"train-0\.parquet:row 1: images\[0\]: picture: not a picture"):
        prepare(job(tmp_path, task="docvqa"), lambda _: None)


def test_next_run_on_a_volume_finds_what_was_measured_unless_it_sees_the_samples_otherwise(
    tmp_path: Path,
) -> None:
    def said(**changes: Any) -> bool:
        base = job(tmp_path)
        training = base.training.model_copy(update=changes)
        run = base.run.model_copy(update={"uid": "another"})
        _, _, lines = prepared(base.model_copy(update={"run": run, "training": training}))
        return any("the costliest sample" in line for line in lines)

    write_lines(tmp_path, {"user": "What?"}, {"user": "What now?"})
    assert any("the costliest sample" in line for line in prepared(job(tmp_path))[2])
    assert not said(learning_rate=0.5)
    assert said(num_crops=2)
    assert said(max_length=300)


def test_costs_of_other_samples_are_not_taken_for_these(tmp_path: Path) -> None:
    write_lines(tmp_path, {"user": "What?"}, {"user": "What now?"})
    config = job(tmp_path)
    samples, _, _ = prepared(config)
    file = costs_file(config)
    write_lines(tmp_path / "other", {"user": "What?"}, {"user": "What on earth?"})
    other, _, _ = prepared(job(tmp_path / "other"))
    assert read_costs(file, other) is None
    assert read_costs(file.with_name("absent.json"), samples) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-5], id="cut short"),
        pytest.param(lambda text: "[]", id="something else"),
        pytest.param(lambda text: "[" * 100_000, id="too deep"),
        pytest.param(lambda text: text.replace('"version"', '"edition"'), id="another form"),
        pytest.param(lambda text: text.replace('"costs": [', '"costs": ["x", '), id="no numbers"),
        pytest.param(lambda text: text.replace('"costs": [', f'"costs": [{2**80}, '), id="absurd numbers"),
        pytest.param(lambda text: text.replace('"costs": [', '"costs": [7, '), id="one too many"),
    ],
)
def test_damaged_costs_are_none_and_end_no_run(damage: Callable[[str], str], tmp_path: Path) -> None:
    write_lines(tmp_path, {"user": "What?"}, {"user": "What now?"})
    config = job(tmp_path)
    samples, _, _ = prepared(config)
    file = costs_file(config)
    file.write_text(damage(file.read_text()))
    assert read_costs(file, samples) is None


def test_a_sample_may_cost_more_than_32_bits_hold(tmp_path: Path) -> None:
    write_lines(tmp_path, {"user": "What?"})
    config = job(tmp_path)
    samples, _, _ = prepared(config)
    large = cost_of(10**7, 10**7)
    assert large > 2**31
    write_costs(costs_file(config), samples, [large])
    costs = read_costs(costs_file(config), samples)
    assert costs is not None
    assert list(costs) == [large]
    report = DataReport(tmp_path / "data" / "train.jsonl")
    report.costs.append(large)
    assert list(report.costs) == [large]
