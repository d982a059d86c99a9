"""A jsonl file is gone through as a whole: every problem, every length, no pixel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.jsonl_files import write_lines
from harness.tiny_models import published_folder
from phitune_trainer.data import DataError, JsonlDataset, Processor, jsonl
from phitune_trainer.data import check as checking
from phitune_trainer.data.check import Counter, DataReport, EstimatingCounter, ExactCounter, check_jsonl


@pytest.fixture(scope="module")
def processor(base_model: Path) -> Processor:
    return Processor.load(base_model, num_crops=1)


Check = Callable[..., DataReport]


@pytest.fixture
def check(tmp_path: Path, processor: Processor) -> Check:
    """Write lines to a file and check it."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (84, 84)).save(tmp_path / "images" / "a.png")

    def write(*lines: str | bytes | dict[str, Any], counter: Counter | None = None) -> DataReport:
        file = write_lines(tmp_path / "train.jsonl", *lines)
        return check_jsonl(file, tmp_path / "images", counter or ExactCounter(processor))

    return write


def line(*turns: tuple[list[str], str, str]) -> dict[str, Any]:
    keys = ("images", "user", "assistant")
    return {"conversations": [dict(zip(keys, turn, strict=True)) for turn in turns]}


GOOD = line((["a.png"], "which digit", "7"))


def problems(report: DataReport) -> list[str]:
    return [problem[problem.index("train.jsonl") :] for problem in report.problems]


def test_every_problem_of_every_line_is_reported_with_its_place(check: Check, tmp_path: Path) -> None:
    (tmp_path / "images" / "text.png").write_text("not a picture")
    two_turns = line(
        (["none.png", "../up.png", "text.png"], "<|image_1|> what <|image_2|>", "a<|end|>"),
        (["a.png"], "b", ""),
    )
    report = check(GOOD, "{", "", two_turns, line((["none.png"], "b<|user|>", "c")), b"\xff", GOOD)
    assert report.num_samples == 2
    assert report.num_bad == 4
    assert report.num_problems == len(report.problems)
    found = problems(report)
    assert [problem.partition(": ")[0] for problem in found] == [
        *["train.jsonl:2"],
        *["train.jsonl:4"] * 7,
        *["train.jsonl:5"] * 2,
        *["train.jsonl:6"],
    ]
    for words in (
        "train.jsonl:2: not JSON",
        "train.jsonl:4: conversations[0].user: has '<|image_1|>'",
        "train.jsonl:4: conversations[0].user: has '<|image_2|>'",
        "train.jsonl:4: conversations[0].assistant: has the special token '<|end|>'",
        "train.jsonl:4: conversations[1].assistant: is empty",
        "train.jsonl:4: picture 'none.png': not found",
        "train.jsonl:4: picture '../up.png': must be a path inside",
        f"train.jsonl:4: picture '{tmp_path}/images/text.png': not a picture",
        "train.jsonl:5: conversations[0].user: has the special token '<|user|>'",
        "train.jsonl:5: picture 'none.png': not found",
        "train.jsonl:6: not UTF-8",
    ):
        assert any(problem.startswith(words) for problem in found), words


def test_every_picture_of_a_line_that_cannot_be_used_is_reported(check: Check, tmp_path: Path) -> None:
    (tmp_path / "images" / "text.png").write_text("not a picture")
    report = check(line((["none.png", "a.png", "../up.png"], "b", "c"), (["text.png"], "d", "e")))
    assert all(
        words in problem for words, problem in zip(("none", "up", "text"), problems(report), strict=True)
    )
    assert (report.num_samples, report.num_pictures) == (0, 0)


def test_what_can_be_read_of_a_line_is_checked_whatever_else_is_wrong_with_it(check: Check) -> None:
    wrong = {"images": ["none.png", 1, "\ud800.png"], "user": "a<|end|>", "assistant": None}
    lines = [
        {"id": 1, "conversations": [None, {"images": 5, "assistant": "<|user|>"}, wrong]},
        {"image": "b.png", "conversations": "text"},
        "[]",
    ]
    found = [problem.removeprefix("train.jsonl:") for problem in problems(check(*lines))]
    for words in (
        "1: id: must be a string",
        "1: conversations[0]: must be an object",
        "1: conversations[1].images: must be a list",
        "1: conversations[1]: has no 'user'",
        "1: conversations[1].assistant: has the special token '<|user|>'",
        "1: conversations[2].images[1]: must be a string",
        "1: conversations[2].images[2]: has half a character",
        "1: conversations[2].assistant: must be a string",
        "1: conversations[2].user: has the special token '<|end|>'",
        "1: picture 'none.png': not found",
        "2: the line: has 'image'",
        "2: conversations: must be a list",
        "3: the line: must be an object",
    ):
        assert sum(problem.startswith(words) for problem in found) == 1, words
    assert len(found) == 13


def test_a_line_that_is_too_long_is_reported_and_not_kept_in_memory(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = len(json.dumps(GOOD)) + 1
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", limit)
    longer = json.dumps(GOOD) + " "
    report = check(GOOD, longer, " " * 10 * limit + "{", GOOD, " " * limit)
    words = f"longer than {limit} bytes; each line must be one sample"
    assert [problem[: len("train.jsonl:2: ") + len(words)] for problem in problems(report)] == [
        f"train.jsonl:{number}: {words}" for number in (2, 3, 5)
    ]
    assert report.num_samples == 2
    lines = list(jsonl.read_lines(tmp_path / "train.jsonl"))
    assert max(len(line) for _, _, line in lines) == limit + 1
    content = (tmp_path / "train.jsonl").read_bytes()
    assert all(content[offset:].startswith(line) for _, offset, line in lines)


def test_what_is_good_is_counted(check: Check) -> None:
    report = check(GOOD, line((["a.png", "a.png"], "b", "c"), ([], "d", "e")), line(([], "f", "g")))
    counts = (report.num_samples, report.num_turns, report.num_pictures, report.num_text_only)
    assert counts == (3, 4, 3, 1)
    assert report.problems == []


def test_tokens_are_those_of_training(check: Check, processor: Processor, tmp_path: Path) -> None:
    lines = [GOOD, line((["a.png", "a.png"], "what is shown", "c"), ([], "d", "e")), line(([], "f", "gggg"))]
    report = check(*lines)
    samples = JsonlDataset(tmp_path / "train.jsonl", tmp_path / "images", processor, 10_000)
    assert list(report.lengths) == [samples[index].num_tokens for index in range(3)]
    assert report.num_trained_tokens == sum(samples[index].num_label_tokens for index in range(3))
    limit = report.lengths[0]
    assert (
        report.num_longer_than(limit)
        == JsonlDataset(tmp_path / "train.jsonl", tmp_path / "images", processor, limit).num_skipped
    )


def test_a_picture_is_opened_once_however_often_it_is_named(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (84, 40)).save(tmp_path / "images" / "b.png")
    opened: list[str] = []
    open_picture = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, **more: [opened.append(Path(path).name), open_picture(path, **more)][1]
    )
    sample = line((["a.png", "b.png", "a.png"], "b", "c"))
    report = check(sample, GOOD, sample)
    assert (report.num_pictures, opened) == (7, ["a.png", "b.png"])
    assert check(*[line((["none.png"], "b", "c"))] * 2).num_problems == 2


def test_without_a_tokenizer_tokens_are_estimated(check: Check, tmp_path: Path) -> None:
    exact = ExactCounter(Processor.load(published_folder(), num_crops=16))
    Image.new("RGB", (850, 1100)).save(tmp_path / "images" / "page.png")
    sample = line(
        (["page.png"], "What is the date that is written at the top of this letter?", "12 March 1996")
    )
    found = check(sample, counter=EstimatingCounter.published(num_crops=16))
    counted = check(sample, counter=exact)
    assert found.lengths[0] == pytest.approx(counted.lengths[0], abs=8)
    assert found.num_trained_tokens == pytest.approx(counted.num_trained_tokens, abs=8)
    assert check(line((["page.png"], "a<|end|>", "b")), counter=EstimatingCounter.published(16)).num_bad == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_is_cut_short_is_found_without_decoding_the_others(
    suffix: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images" / f"whole.{suffix}"
    Image.effect_noise((84, 84), 100).save(path)
    (tmp_path / "images" / f"cut.{suffix}").write_bytes(path.read_bytes()[:-300])
    (tmp_path / "images" / f"more.{suffix}").write_bytes(path.read_bytes() + b"\0" * 200)
    decoded: list[Path] = []
    load = Processor.load_picture
    monkeypatch.setattr(
        Processor, "load_picture", lambda self, source: [decoded.append(source), load(self, source)][1]
    )
    report = check(*(line(([f"{name}.{suffix}"], "a", "b")) for name in ("whole", "cut", "more")))
    assert len(report.problems) == 1
    assert "train.jsonl:2: picture" in report.problems[0]
    assert "cannot be decoded" in report.problems[0]
    assert [path.stem for path in decoded] == ["cut", "more"]


def test_only_so_many_problems_are_kept_and_all_are_counted(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MOST_KEPT", 3)
    report = check(*["{"] * 8)
    assert (report.num_problems, len(report.problems)) == (8, 3)


def test_a_file_with_problems_is_refused_with_all_of_them(check: Check) -> None:
    check(GOOD).refuse_if_bad(1000)
    with pytest.raises(DataError, match=r"^\S+train\.jsonl:2: not JSON"):
        check(GOOD, "{").refuse_if_bad(1000)
    with pytest.raises(DataError) as several:
        check(*["{"] * 30).refuse_if_bad(1000)
    told = str(several.value).splitlines()
    assert told[0].endswith("train.jsonl: 30 problems")
    assert len(told) == 1 + 20 + 1
    assert told[-1] == "and 10 more; `phitune data check` lists them"


def test_a_file_that_leaves_nothing_to_train_on_is_refused(check: Check) -> None:
    with pytest.raises(DataError, match="has no samples"):
        check("", " ").refuse_if_bad(1000)
    with pytest.raises(DataError, match="all 2 samples are longer than 5 tokens; raise maxLength"):
        check(GOOD, GOOD).refuse_if_bad(5)
    check(GOOD, GOOD).refuse_if_bad()


def test_a_file_that_cannot_be_read_is_named(check: Check, tmp_path: Path, processor: Processor) -> None:
    with pytest.raises(DataError, match=r"other\.jsonl: cannot be read: No such file"):
        check_jsonl(tmp_path / "other.jsonl", tmp_path, ExactCounter(processor))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        check_jsonl(tmp_path / "images", tmp_path, ExactCounter(processor))
