"""What pods say of themselves is read strictly and made harmless."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phitune_operator.reports import MAX_BYTES, clean, read_end, read_progress

PROGRESS: dict[str, Any] = {
    "version": 1,
    "attempt": 1,
    "state": "training",
    "step": 3,
    "totalSteps": 10,
    "percent": 30.0,
    "loss": 1.5,
    "updatedAt": "2026-01-01T12:00:00Z",
}


def test_progress_is_read() -> None:
    report = read_progress(json.dumps(PROGRESS))
    assert report is not None
    assert (report.step, report.total_steps, report.loss, report.mfu) == (3, 10, 1.5, None)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": -1},
        {"step": 2**60},
        {"percent": 101},
        {"loss": "NaN"},
        {"updatedAt": "yesterday"},
        {"updatedAt": None},
        {"lastCheckpoint": []},
    ],
    ids=str,
)
def test_progress_that_does_not_fit_is_as_good_as_none(change: dict[str, Any]) -> None:
    assert read_progress(json.dumps({**PROGRESS, **change})) is None


@pytest.mark.parametrize("answer", ["", "[]", "null", "{" * 100_000, '{"loss": NaN}', "x" * (MAX_BYTES + 1)])
def test_answer_that_is_no_report_is_refused(answer: str) -> None:
    assert read_progress(answer) is None
    assert read_end(answer) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(answer: bytes) -> None:
    assert read_progress(answer) is None


def test_terminal_escapes_and_control_characters_are_removed() -> None:
    words = {
        "exitCode": 2,
        "message": "\x1b[31mred\x07\u202eevil",
        "failure": {"lastLines": ["a\x1b[2Jb", ""]},
    }
    report = read_end(json.dumps(words))
    assert report is not None
    assert report.message == "redevil"
    assert report.last_lines == ["ab"]


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    assert all(
        character == "\n" or character.isprintable() or ord(character) > 159 for character in clean(text)
    )
