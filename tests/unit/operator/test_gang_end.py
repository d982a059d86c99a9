"""Who is to blame when a gang ends: one pod takes the others along, so the first is not always the cause."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.operator_view import NOON, gang, pod
from phitune_operator.kinds import Object
from phitune_operator.pods import view
from phitune_operator.policies.fault import KINDS, kind_of_user_error
from phitune_operator.policies.gang_end import SETTLE_AFTER_LOSS, Verdict, how_it_ended
from phitune_trainer import errors

FAILED = {"type": "Failed", "status": "True", "message": "it failed"}
SUCCEEDED = {"type": "Succeeded", "status": "True", "message": ""}
LATER: Any = {"deletionTimestamp": "2026-01-01T12:02:00Z"}


def taken(reason: str) -> list[Object]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


def said(reason: str, *last_lines: str, code: int = 1) -> str:
    """What a pod leaves behind that ended by itself."""
    failure = {"rank": 0, "exitCode": code, "lastLines": list(last_lines)}
    return json.dumps({"exitCode": code, "reason": reason, "message": "it ended", "failure": failure})


LOST = said("RankLost")
WATCHDOG = "[rank1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"


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
            (pod(0, code=1, message=LOST), pod(1, code=137, message=said("Killed"), seconds_ago=50)),
            Verdict.FAULT,
            "Fault",
            1,
            id="who lost another is not to blame, though it ended first",
        ),
        pytest.param(
            (pod(0, code=1, message=LOST), pod(1)), None, None, None, id="the one that is lost may yet tell"
        ),
        pytest.param(
            (pod(0, code=1), pod(1, code=137, message=said("Killed", code=137), seconds_ago=58)),
            Verdict.FAULT,
            "Fault",
            1,
            id="who was killed is to blame for what others say of themselves",
        ),
        pytest.param(
            (pod(0, code=1, message=LOST, seconds_ago=90), pod(1)),
            Verdict.FAULT,
            "RankLost",
            0,
            id="the one that is lost never told",
        ),
        pytest.param(
            (pod(0, code=1, message=LOST),), Verdict.DISRUPTED, "PodDeleted", 0, id="lost a pod that is gone"
        ),
        pytest.param(
            (pod(0, code=1, message=LOST), pod(1, phase="Pending")),
            Verdict.DISRUPTED,
            "PodDeleted",
            0,
            id="lost a pod that was made anew",
        ),
        pytest.param(
            (pod(0, code=1, message=said("CollectiveTimeout")), pod(1, code=1, message=LOST)),
            Verdict.FAULT,
            "CollectiveTimeout",
            0,
            id="a collective timed out",
        ),
        pytest.param(
            (pod(0, code=1, message=said("Killed", WATCHDOG)), pod(1, code=1, message=LOST)),
            Verdict.FAULT,
            "CollectiveTimeout",
            0,
            id="killed by NCCL's watchdog",
        ),
        pytest.param(
            (pod(0, code=1, message=LOST), pod(1, code=1, message=said("OutOfGpuMemory"))),
            Verdict.FAULT,
            "OutOfGpuMemory",
            1,
            id="GPU memory: the next start takes less",
        ),
        pytest.param(
            (pod(0, code=1), pod(1, code=2, message=said("OutOfGpuMemory", code=2))),
            Verdict.USER_ERROR,
            "OutOfGpuMemory",
            1,
            id="GPU memory: nothing takes less",
        ),
        pytest.param(
            (pod(0, code=1), pod(1, code=2, message=said("VolumeFull", code=2))),
            Verdict.FAULT,
            "VolumeFull",
            1,
            id="volume full: there may be room later",
        ),
        pytest.param(
            (pod(0, code=2, message=said("VolumeReadOnly", code=2)), pod(1, code=1, message=LOST)),
            Verdict.FAULT,
            "VolumeReadOnly",
            0,
            id="volume read-only: it may be mended",
        ),
        pytest.param(
            (
                pod(0, code=2, message=said("VolumeFull", code=2)),
                pod(1, code=2, message=said("UserError", code=2)),
            ),
            Verdict.USER_ERROR,
            "UserError",
            1,
            id="what is wrong with the job outranks what is wrong with its volume",
        ),
        pytest.param(
            (pod(0, code=1, message=LOST), pod(1, code=128, cause="StartError", message="no python3")),
            Verdict.FAULT,
            "StartFailed",
            1,
            id="the container could not be started",
        ),
        pytest.param(
            (pod(0, code=1), pod(1, code=255, cause="Unknown")),
            Verdict.DISRUPTED,
            "NodeLost",
            1,
            id="the node was started again",
        ),
        pytest.param(
            (pod(0, code=1), pod(1, phase="Failed", cause="OutOfcpu")),
            Verdict.DISRUPTED,
            "NeverRan",
            1,
            id="the node refused the pod",
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
    end = how_it_ended(gang(conditions=[FAILED]), [pod(0), pod(1)], num_pods=2, now=NOON)
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


def test_node_that_is_lost_while_the_others_say_so_is_not_the_jobs_fault() -> None:
    """Its processes were killed: the others notice at once, Kubernetes only after most of a minute."""
    survivor = pod(0, code=1, message=LOST, seconds_ago=0)
    now = NOON + timedelta(seconds=60)
    assert now - NOON < SETTLE_AFTER_LOSS
    assert how_it_ended(gang(), [survivor, pod(1)], num_pods=2, now=now) is None
    cut_off = replace(pod(1, **LATER), is_gone=True)
    end = how_it_ended(gang(), [survivor, cut_off], num_pods=2, now=now)
    assert end is not None
    assert (end.verdict, end.reason, end.pod) == (Verdict.DISRUPTED, "NodeLost", cut_off)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(
            {"initContainerStatuses": [{"name": "init-pytorch", "state": {"terminated": {"exitCode": 1}}}]},
            "its init container init-pytorch ended with exit code 1",
            id="an init container gave up",
        ),
        pytest.param(
            {"reason": "UnexpectedAdmissionError", "message": "no healthy devices"},
            "UnexpectedAdmissionError: no healthy devices",
            id="the node has no device for it",
        ),
    ],
)
def test_pod_that_never_ran_says_why_and_is_not_counted(status: Object, words: str) -> None:
    metadata = {"name": "digits-1-worker-0", "uid": "w"}
    refused = view({"metadata": metadata, "spec": {}, "status": {"phase": "Failed", **status}})
    end = how_it_ended(gang(), [pod(0), refused], num_pods=2, now=NOON)
    assert end is not None
    assert (end.verdict, end.reason) == (Verdict.DISRUPTED, "NeverRan")
    assert words in end.message


def test_runtimes_word_for_a_container_that_it_could_not_start_is_told() -> None:
    words = 'exec: "python3": executable file not found'
    end = how_it_ended(gang(), [pod(0, code=128, cause="StartError", message=words)], num_pods=1, now=NOON)
    assert end is not None
    assert words in end.message


def test_every_word_of_the_trainer_for_a_fault_is_understood() -> None:
    def below(kind: type[errors.KnownFault]) -> set[str]:
        own = {kind.reason} if "reason" in vars(kind) else set[str]()
        return own.union(*(below(sub) for sub in kind.__subclasses__()))

    only_before_training = {"HubUnavailable"}
    words = below(errors.KnownFault) - only_before_training
    assert len(words) > 5
    assert words <= set(KINDS)
    for kind in errors.UserError.__subclasses__():
        told = pod(code=2, message=json.dumps({"exitCode": 2, "reason": kind.reason}))
        assert kind_of_user_error(told) == kind.reason


@pytest.mark.parametrize(
    ("pods", "verdict", "reason"),
    [
        pytest.param([pod(0)], Verdict.DISRUPTED, "PodDeleted", id="one was taken away"),
        pytest.param([pod(0), pod(1)], Verdict.FAULT, "Fault", id="all are there"),
        pytest.param([], Verdict.FAULT, "Fault", id="none could be made"),
    ],
)
def test_a_gang_that_failed_by_a_pod_that_is_gone_was_disrupted(
    pods: list[Any], verdict: Verdict, reason: str
) -> None:
    end = how_it_ended(gang(conditions=[FAILED]), pods, num_pods=2, now=NOON)
    assert end is not None
    assert (end.verdict, end.reason) == (verdict, reason)


ENDS: list[Any] = [
    {"code": 1, "message": said("Fault")},
    {"code": 1, "message": said("RankLost")},
    {"code": 2},
    {"code": 75},
    {"code": 137, "cause": "OOMKilled"},
    {"code": 0},
    {"phase": "Failed"},
    LATER,
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(ENDS), min_size=2, max_size=4), st.randoms())
def test_order_in_which_pods_are_listed_decides_nothing(ends: list[Any], chance: Random) -> None:
    pods = [pod(index, **end) for index, end in enumerate(ends)]
    end = how_it_ended(gang(), pods, num_pods=len(pods), now=NOON)
    chance.shuffle(pods)
    assert how_it_ended(gang(), pods, num_pods=len(pods), now=NOON) == end
    if end is not None:
        is_users = any(pod.exit_code == 2 for pod in pods)
        assert (end.verdict is Verdict.USER_ERROR) == is_users, "what the user did outranks all else"
