"""Who is to blame when a gang ends: one pod takes the others along, so the first is not always the cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.operator_view import NOON, gang, pod
from phitune_operator.kinds import Object
from phitune_operator.policies.gang_end import Verdict, how_it_ended

FAILED = {"type": "Failed", "status": "True", "message": "it failed"}
SUCCEEDED = {"type": "Succeeded", "status": "True", "message": ""}
LATER: Any = {"deletionTimestamp": "2026-01-01T12:02:00Z"}


def taken(reason: str) -> list[Object]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("pods", "verdict", "reason", "culprit"),
    [
        pytest.param((pod(0, code=0), pod(1, code=0)), Verdict.SUCCEEDED, "Completed", None, id="all done"),
        pytest.param((pod(0, code=0),), None, None, None, id="a worker was never seen"),
        pytest.param((pod(0), pod(1)), None, None, None, id="running"),
        pytest.param((pod(0, code=1, seconds_ago=2), pod(1)), None, None, None, id="others may still tell"),
        pytest.param((pod(0, code=1, seconds_ago=9), pod(1)), Verdict.FAULT, "Fault", 0, id="others hang"),
        pytest.param(
            (pod(0, code=1, seconds_ago=9), pod(1, code=2)),
            Verdict.USER_ERROR,
            "UserError",
            1,
            id="user error outranks",
        ),
        pytest.param(
            (pod(0, code=2, seconds_ago=0), pod(1)), Verdict.USER_ERROR, "UserError", 0, id="at once"
        ),
        pytest.param(
            (pod(0, code=1), pod(1, code=137, cause="OOMKilled", seconds_ago=1)),
            Verdict.FAULT,
            "OutOfMemory",
            1,
            id="out of memory outranks its echo",
        ),
        pytest.param(
            (pod(0, code=1, seconds_ago=9), pod(1, code=1)), Verdict.FAULT, "Fault", 1, id="first one"
        ),
        pytest.param(
            (pod(0, code=75), pod(1, code=75)), Verdict.FAULT, "LeftUnasked", 0, id="nobody asked to stop"
        ),
        pytest.param(
            (pod(0, code=75),), Verdict.DISRUPTED, "Interrupted", 0, id="told by a pod that is gone"
        ),
        pytest.param(
            (pod(0, code=75, **LATER), pod(1, code=75)),
            Verdict.DISRUPTED,
            "PodDeleted",
            0,
            id="asked to stop",
        ),
        pytest.param((pod(0, code=1), pod(1, **LATER)), Verdict.DISRUPTED, "PodDeleted", 1, id="pod deleted"),
        pytest.param(
            (pod(0, code=1), pod(1, phase="Failed", cause="Evicted")),
            Verdict.DISRUPTED,
            "Evicted",
            1,
            id="evicted",
        ),
        pytest.param(
            (pod(0, code=1), pod(1, conditions=taken("PreemptionByScheduler"), **LATER)),
            Verdict.DISRUPTED,
            "Preempted",
            1,
            id="preempted",
        ),
        pytest.param(
            (pod(0, code=1), replace(pod(1, **LATER), is_gone=True)),
            Verdict.DISRUPTED,
            "NodeLost",
            1,
            id="node lost",
        ),
    ],
)
def test_verdict(pods: Any, verdict: Verdict | None, reason: str | None, culprit: int | None) -> None:
    end = how_it_ended(gang(), pods, num_pods=2, now=NOON)
    if verdict is None:
        assert end is None
        return
    assert end is not None
    assert (end.verdict, end.reason) == (verdict, reason)
    assert end.pod == (None if culprit is None else pods[culprit])


def test_failed_pytorchjob_without_a_failed_pod_is_a_fault() -> None:
    end = how_it_ended(gang(conditions=[FAILED]), [pod(0)], num_pods=2, now=NOON)
    assert end is not None
    assert (end.verdict, end.message) == (Verdict.FAULT, "it failed")


def test_master_alone_does_not_make_a_success() -> None:
    succeeded = gang(conditions=[SUCCEEDED])
    assert how_it_ended(succeeded, [pod(0, code=0), pod(1)], num_pods=2, now=NOON) is None
    vanished = how_it_ended(succeeded, [pod(0, code=0)], num_pods=2, now=NOON)
    assert vanished is not None
    assert vanished.verdict is Verdict.DISRUPTED


def test_sentence_is_the_pods_own_where_it_has_one() -> None:
    told = pod(0, code=2, message='{"exitCode": 2, "message": "images/3.png: not a picture"}')
    silent = pod(0, code=137, cause="OOMKilled", message="\\x00 not ours")
    for one, words in ((told, "images/3.png: not a picture"), (silent, "exit code 137 (OOMKilled)")):
        end = how_it_ended(gang(), [one], num_pods=1, now=NOON)
        assert end is not None
        assert words in end.message
