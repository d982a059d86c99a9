"""`Running` is what rank 0 says, not what the PyTorchJob says: all pods are there, and the ranks step."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from harness.operator_view import NOON, PREPARED, condition, gang, observed, pod
from phitune_operator.plan import plan
from phitune_operator.policies.running import HEARD_WITHIN
from phitune_operator.reports import ProgressReport, read_progress


def said(state: str) -> ProgressReport:
    known = {"attempt": 1, "step": 0, "totalSteps": 10, "percent": 0.0, "updatedAt": "2026-01-01T12:00:00Z"}
    report = read_progress(json.dumps({**known, "state": state}))
    assert report is not None
    return report


FRESH = replace(pod(1), ready_since=NOON - timedelta(seconds=9))
OLD = replace(pod(1), ready_since=NOON - HEARD_WITHIN)
STUCK = replace(pod(1, phase="Pending"), is_ready=False, unschedulable="0/2 nodes are available")


@pytest.mark.parametrize(
    ("other", "progress", "reason", "phase"),
    [
        pytest.param(pod(1), said("training"), "Training", "Running", id="steps"),
        pytest.param(pod(1), said("baseline"), "Training", "Evaluating", id="scores the base model"),
        pytest.param(pod(1), said("loading"), "Loading", "Pending", id="loads"),
        pytest.param(FRESH, None, "Starting", "Pending", id="not heard yet"),
        pytest.param(OLD, None, "Unheard", "Running", id="cannot be heard"),
        pytest.param(
            replace(pod(1), is_ready=False), said("training"), "Starting", "Pending", id="one is missing"
        ),
        pytest.param(STUCK, None, "Unschedulable", "Pending", id="one has no node"),
        pytest.param(
            pod(1, code=1, seconds_ago=1), said("training"), "Ending", "Pending", id="one has just failed"
        ),
    ],
)
def test_gang_that_has_not_ended(other: Any, progress: Any, reason: str, phase: str) -> None:
    volume = {"metadata": {"name": "digits-workspace"}}
    status = {**copy.deepcopy(PREPARED), "phase": "Pending"}
    gang_says = gang(conditions=[{"type": "Running", "status": "True"}])
    seen = observed(status=status, claim=volume, gangs=(gang_says,), pods=(pod(0), other), progress=progress)
    todo = plan(seen)
    running = condition(todo.status, "Running")
    assert (running["reason"], todo.status["phase"]) == (reason, phase)
    assert running["status"] == ("True" if phase != "Pending" else "False")
    assert todo.look_again is not None
    assert todo.look_again <= 10


@pytest.mark.parametrize("phase", ["Running", "Evaluating"])
def test_operator_that_has_just_started_takes_nothing_back_before_rank_zero_has_answered_it(
    phase: str,
) -> None:
    volume = {"metadata": {"name": "digits-workspace"}}
    gang_says = gang(conditions=[{"type": "Running", "status": "True"}])
    state = "evaluating" if phase == "Evaluating" else "training"

    def look(status: dict[str, Any], progress: ProgressReport | None) -> dict[str, Any]:
        pods = (pod(0), FRESH)
        return plan(
            observed(status=status, claim=volume, gangs=(gang_says,), pods=pods, progress=progress)
        ).status

    before = look({**copy.deepcopy(PREPARED), "phase": "Pending"}, said(state))
    assert before["phase"] == phase
    assert look(before, None) == before
