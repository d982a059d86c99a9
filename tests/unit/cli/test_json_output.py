"""`-o json`: the result of a command for programs, alone on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cluster import REPOSITORY
from harness.jsonl_files import write_lines
from harness.run_folder import RunFolder, answer
from phitune_cli.main import main


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with `-o json`; what it printed."""

    def ask(*arguments: object, code: int = 0) -> Any:
        assert main([*map(str, arguments), "-o", "json"]) == code
        return json.loads(capsys.readouterr().out)

    return ask


def test_what_is_wrong_with_data_is_counted_and_listed(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (336, 336)).save(tmp_path / "images/a.png")
    good, bad = (
        {"conversations": [{"images": [name], "user": "Red?", "assistant": "no"}]}
        for name in ("a.png", "b.png")
    )
    found = ask("data", "check", write_lines(tmp_path / "train.jsonl", good, good, bad), code=2)
    assert (found["samples"], found["badLines"], found["pictures"], found["numProblems"]) == (2, 1, 2, 1)
    assert found["tokensOfSample"]["least"] == found["tokensOfSample"]["most"] > 2
    assert found["tokensCounted"] is False
    (problem,) = found["problems"]
    assert problem.startswith(f"{tmp_path}/train.jsonl:3: picture 'b.png': not found")
    empty = ask("data", "check", write_lines(tmp_path / "empty.jsonl"), code=2)
    assert empty["tokensOfSample"] == {"least": None, "median": None, "most": None}


def test_scores_and_their_difference_are_those_of_the_text(ask: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "")
    for step, score in ((0, 0.0), (4, 1.0)):
        run.score(1, step, score, [answer(number, score=score) for number in range(4)])
    before, after = (run.layout.incarnation(1).evaluation(step) for step in (0, 4))
    scores = ask("evaluate", after)
    assert (scores["metric"], scores["value"], scores["samples"]) == ("exactMatch", 1.0, 4)
    assert scores["low"] <= scores["value"] <= scores["high"]
    compared = ask("evaluate", after, "--against", before)
    assert compared["differences"]["exactMatch"]["value"] == 1.0
    assert compared["changed"] == 4


def test_memory_is_told_by_part_and_gpu(ask: Any) -> None:
    job = REPOSITORY / "examples/docvqa-lora.yaml"
    (one,) = ask("estimate", job, "--gpu", "A100-80GB")
    assert one["gpu"] == "A100-80GB"
    assert one["fits"] is True
    assert one["neededBytes"] == sum(one["parts"].values()) < one["memoryBytes"]
    assert one["precision"] == "bf16"
    assert len(ask("estimate", job)) > 5


def test_the_place_of_a_report_is_told(ask: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "")
    run.start(1, range(1, 5))
    assert ask("report", run.layout.path) == {"path": str(run.layout.report)}
