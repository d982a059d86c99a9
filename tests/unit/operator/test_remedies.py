"""Each bad end says what would help; each reason's row in the documentation is about the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.operator_view import PREPARED, gang, observed, pod
from phitune_operator.plan import plan
from phitune_operator.policies.gang_end import FAULT_REASONS
from phitune_operator.policies.half_placed import TAKEN_BACK
from phitune_operator.policies.image_pull import IMAGE_NOT_PULLED
from phitune_operator.remedies import REMEDIES

TAKEN = {"NodeLost", "Preempted", "Evicted", "PodDeleted", "GangDeleted", "Interrupted", "NeverRan"}
OTHERS = {"UserError", "PrepareFailed", "SpecChanged", *TAKEN_BACK, IMAGE_NOT_PULLED}


def test_every_reason_of_a_bad_end_has_a_remedy_and_none_is_left_over() -> None:
    assert set(REMEDIES) == FAULT_REASONS | TAKEN | OTHERS


@pytest.mark.parametrize(
    ("end", "reason", "words"),
    [
        ({"code": 137, "cause": "OOMKilled"}, "OutOfMemory", "spec.resources.memory"),
        ({"phase": "Failed", "cause": "Evicted"}, "Evicted", "goes on from its last checkpoint"),
        ({"code": 2}, "UserError", "apply it again"),
    ],
)
def test_failure_names_pod_node_code_reason_and_remedy(end: Any, reason: str, words: str) -> None:
    volume = {"metadata": {"name": "digits-workspace"}}
    culprit = pod(1, **end)
    seen = observed(
        status=copy.deepcopy(PREPARED), claim=volume, gangs=(gang(),), pods=(pod(0, code=1), culprit)
    )
    failure = plan(seen).status["failure"]
    assert (failure["pod"], failure["node"], failure["reason"]) == ("digits-1-worker-0", "node-1", reason)
    assert failure.get("exitCode") == end.get("code")
    assert failure["remedy"] == REMEDIES[reason]
    assert words in failure["remedy"]
