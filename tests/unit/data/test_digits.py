"""The data set of handwritten digits."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phitune_trainer.data import generate_digits
from phitune_trainer.data.check import EstimatingCounter, check_jsonl
from phitune_trainer.data.jsonl import read_conversations


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate_digits(folder)
    return folder


def test_all_pictures_are_there_and_none_is_in_both_parts(digits: Path) -> None:
    counter = EstimatingCounter.published(num_crops=1)
    reports = {
        part: check_jsonl(digits / f"{part}.jsonl", digits / "images", counter) for part in ("train", "eval")
    }
    assert {part: report.num_pictures for part, report in reports.items()} == {"train": 1497, "eval": 300}
    assert not any(report.problems for report in reports.values())
    assert len(list((digits / "images").iterdir())) == 1797


def test_every_digit_is_asked_for_in_both_parts(digits: Path) -> None:
    for part in ("train", "eval"):
        turns = [conversation.turns[0] for _, _, conversation in read_conversations(digits / f"{part}.jsonl")]
        assert {turn.assistant for turn in turns} == set("0123456789")
        assert {turn.user for turn in turns} == {"Which digit is this? Answer with one digit."}


def test_pictures_are_dark_on_white_and_of_one_crop(digits: Path) -> None:
    first = json.loads((digits / "train.jsonl").read_text().splitlines()[0])
    with Image.open(digits / "images" / first["conversations"][0]["images"][0]) as picture:
        assert picture.size == (84, 84)
        values = np.asarray(picture)
    assert values.max() == 255
    assert values.min() < 64
    assert values.mean() > 128


def test_the_same_bytes_every_time_and_an_existing_folder_is_left_alone(digits: Path, tmp_path: Path) -> None:
    generate_digits(tmp_path / "again")
    files = [path for path in digits.rglob("*") if path.is_file()]
    assert len(files) == 1797 + 2
    assert all(
        (tmp_path / "again" / path.relative_to(digits)).read_bytes() == path.read_bytes() for path in files
    )
    (digits / "train.jsonl").touch()
    before = (digits / "train.jsonl").stat().st_mtime_ns
    generate_digits(digits)
    assert (digits / "train.jsonl").stat().st_mtime_ns == before
