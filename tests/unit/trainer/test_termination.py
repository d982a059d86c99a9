"""A pod's last words fit into what Kubernetes keeps, and stay JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.termination import MAX_BYTES, bounded, write_termination


def proofs(count: int) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "steps": 9, "samples": 9, "tokens": 9, "parametersHash": "0" * 64}
        for rank in range(count)
    ]


def test_a_short_message_is_kept_as_it_is() -> None:
    message = {"exitCode": 0, "message": "training is complete", "ranks": proofs(8), "failure": None}
    assert json.loads(bounded(message)) == message


def test_log_lines_go_before_anything_else_and_the_oldest_first() -> None:
    lines = [f"line {number} " + "ü" * 100 for number in range(40)]
    kept = json.loads(bounded({"message": "m", "ranks": proofs(8), "failure": {"lastLines": lines}}))
    assert kept["failure"]["lastLines"] == lines[-len(kept["failure"]["lastLines"]) :]
    assert 0 < len(kept["failure"]["lastLines"]) < 40
    assert kept["ranks"] == proofs(8)


def test_proofs_of_many_ranks_are_left_out_by_number() -> None:
    kept = json.loads(bounded({"message": "m", "ranks": proofs(64), "failure": None}))
    assert len(kept["ranks"]) + kept["ranksOmitted"] == 64
    assert kept["ranks"][0]["rank"] == 0


@pytest.mark.parametrize("length", [3000, 5000, 100_000])
def test_a_message_of_any_length_fits(length: int) -> None:
    written = bounded({"message": "é" * length, "ranks": proofs(3), "failure": {"lastLines": ["x" * 9000]}})
    assert len(written) <= MAX_BYTES
    assert json.loads(written)["message"].startswith("é")


def test_is_written_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHITUNE_TERMINATION_LOG", str(tmp_path / "log"))
    write_termination({"exitCode": 2, "message": "no"})
    written = json.loads((tmp_path / "log").read_text())
    assert (written["version"], written["exitCode"], written["nodeRank"]) == (1, 2, 0)


def test_numbers_that_json_cannot_say_become_null() -> None:
    kept = json.loads(
        bounded({"message": "m", "progress": {"loss": float("nan")}}), parse_constant=pytest.fail
    )
    assert kept["progress"]["loss"] is None
