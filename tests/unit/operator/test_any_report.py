"""Whatever pods say of themselves, the operator goes on, and says nothing that the API server would refuse.

Pods run what their user wants: an answer of /progress or a termination message is an attacker's to write.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.fuzz import A_FEW_AND_MANY, holds, spoilt_bytes
from harness.operator_view import H100, PREPARED, gang, observed, pod
from phitune_operator.api_status import Status
from phitune_operator.clock import from_text, to_text
from phitune_operator.kinds import Object
from phitune_operator.logs import JsonFormatter
from phitune_operator.plan import plan
from phitune_operator.reports import (
    MAX_BYTES,
    EndReport,
    ProgressReport,
    clean,
    read_end,
    read_progress,
)

WHOLE: Object = {
    "attempt": 1,
    "state": "training",
    "step": 3,
    "totalSteps": 10,
    "percent": 30.0,
    "epoch": 0.5,
    "loss": 1.5,
    "learningRate": 1e-5,
    "imagesPerSecond": 3.0,
    "tokensPerSecond": 9.0,
    "mfu": 0.4,
    "etaSeconds": 60,
    "updatedAt": "2026-01-01T12:00:00Z",
    "lastCheckpoint": {"step": 2, "path": "runs/a", "time": "2026-01-01T12:00:00Z"},
    "evaluation": {"metric": "anls", "value": 0.5, "baseline": 0.1, "samples": 10, "step": 2},
}
WORDS: Object = {
    "exitCode": 1,
    "reason": "Fault",
    "message": "it broke",
    "progress": WHOLE,
    "lastCheckpoint": WHOLE["lastCheckpoint"],
    "evaluation": WHOLE["evaluation"],
    "artifacts": {"merged": "runs/a/export/merged"},
    "failure": {"rank": 0, "exitCode": 1, "lastLines": ["a line"]},
}
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    2**53,
    2**63,
    10**400,
    1e308,
    -1e308,
    1e-320,
    [],
    {},
    [{}],
    "x" * 5000,
    "\x1b[2J\x9b2J\u202e\x00",
    "\ud800",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "2026-01-01T12:00:00.999999999Z",
]


THERE: Object = {
    **PREPARED,
    "conditions": [{"message": "as it was", **condition} for condition in PREPARED["conditions"]],
}


def spoilt(report: Object) -> st.SearchStrategy[Object]:
    """The report with a hostile value in the place of some of its fields, at any depth."""

    def field(value: Any) -> st.SearchStrategy[Any]:
        whole = spoilt(value) if isinstance(value, dict) else st.just(value)
        return st.one_of(whole, whole, st.sampled_from(HOSTILE), st.floats(), st.text(max_size=20))

    return st.fixed_dictionaries({name: field(value) for name, value in report.items()})


def status_after(**seen: Any) -> Object:
    """The status of a job whose gang is there, checked as the API server checks it."""
    status = plan(observed(status=THERE, gangs=(gang(),), nodes=H100, **seen)).status
    Status.model_validate(json.loads(json.dumps(status, allow_nan=False)), by_alias=True, by_name=False)
    said = json.dumps(status, ensure_ascii=False)
    assert not any(character in said for character in "\x1b\x9b\u202e\x00")
    said.encode()
    return status


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(spoilt(WHOLE))
def test_any_progress_is_taken_or_left(report: Object) -> None:
    status_after(pods=(pod(0), pod(1)), progress=read_progress(json.dumps(report)))


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(spoilt(WORDS))
def test_any_last_words_end_the_attempt(words: Object) -> None:
    message = json.dumps(words)
    status = status_after(pods=(pod(0, code=1, message=message), pod(1, code=1)))
    assert status["phase"] in ("Restarting", "Failed")


@A_FEW_AND_MANY
@pytest.mark.parametrize("read", [read_progress, read_end], ids=["progress", "last words"])
def test_a_report_with_a_few_bytes_changed_is_read_or_left(
    read: Callable[[bytes], ProgressReport | EndReport | None], num_examples: int
) -> None:
    def is_read_or_left(content: bytes) -> None:
        report = read(content)
        if report is not None:
            assert len(report.model_dump_json()) <= MAX_BYTES

    good = json.dumps(WHOLE if read is read_progress else WORDS, ensure_ascii=False).encode()
    assert read(good) is not None
    holds(num_examples, spoilt_bytes(good), is_read_or_left)


@pytest.mark.parametrize("words", ["", "no JSON", "[]", "null", '{"exitCode": ', "{}" * 90], ids=repr)
def test_last_words_that_are_none_end_it_too(words: str) -> None:
    assert status_after(pods=(pod(0, code=1, message=words), pod(1, code=1)))["phase"] == "Restarting"


@given(st.text())
def test_no_text_is_a_time_that_cannot_be_written(text: str) -> None:
    moment = from_text(text)
    assert moment is None or from_text(to_text(moment)) is not None


@pytest.mark.parametrize("text", [value for value in HOSTILE if isinstance(value, str)], ids=ascii)
def test_hostile_time_is_none_or_can_be_written_and_read_again(text: str) -> None:
    moment = from_text(text)
    assert moment is None or from_text(to_text(moment)) == moment.replace(microsecond=0)


def test_a_log_line_holds_nothing_that_acts_on_a_terminal() -> None:
    record = logging.LogRecord("a", logging.INFO, "file", 1, "%s", ("\x1b[2J\x9b\u202e\n\ud800",), None)
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == "\x1b[2J\x9b\u202e\n\ud800"


def test_half_characters_are_not_passed_on() -> None:
    assert clean("a\ud800b").encode() == b"ab"
