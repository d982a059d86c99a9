"""Jobs drawn at random from the schema: refused by path, or planned until the gang is there or a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from harness.fuzz import documents, wishful_documents
from harness.planned import outcome
from phitune_operator.validate import validate

PHASES = [Phase.generate, Phase.shrink]


def is_refused_or_comes_to_rest(document: dict[str, Any]) -> bool:
    """Whether the job was accepted by the schema; AssertionError where it is left without a word."""
    if problems := validate(document):
        assert all(problem.path.startswith("spec") and problem.message for problem in problems)
        return False
    came = outcome(document)
    is_suspended = came.status.get("phase") == "Suspended"
    assert came.has_started or is_suspended or "spec." in came.refusal, came.status
    json.dumps(came.objects, allow_nan=False)
    return True


@settings(max_examples=100, deadline=None, database=None, phases=PHASES)
@given(documents() | wishful_documents())
def test_any_job_is_refused_by_path_or_comes_to_rest(document: dict[str, Any]) -> None:
    is_refused_or_comes_to_rest(document)


@pytest.mark.slow
def test_so_do_five_thousand() -> None:
    num_accepted = 0

    @settings(
        max_examples=5000,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(documents() | wishful_documents())
    def each(document: dict[str, Any]) -> None:
        nonlocal num_accepted
        num_accepted += is_refused_or_comes_to_rest(document)

    each()
    assert num_accepted > 500
