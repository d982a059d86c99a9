"""Jobs that name a queue: what waits, what Kueue takes back, and what the user reads of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from harness.operator_view import AT_ELEVEN, PREPARED, condition, observed, pod
from phitune_operator.decide import subject_of
from phitune_operator.kinds import GANGS, PYTORCHJOB, Object
from phitune_operator.observed import Admission, Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.policies import queue
from phitune_operator.render.gang import gang

PENDING = Admission(reason="Pending", message="insufficient unused quota for cpu")
PREEMPTED = Admission(reason="Preempted", message="by a workload of higher priority")
KINDS = pytest.mark.parametrize("kind", [kind.kind for kind in GANGS])


def queued(
    *pods: Any, running: str = "Queued", suspended: bool = True, kind: str = PYTORCHJOB.kind, **more: Any
) -> Observed:
    """A job in the queue `team`, whose first gang is there; `running` is the reason of its condition."""
    placement = PREPARED["placement"] | {"backend": kind}
    prepared, is_running = PREPARED["conditions"]
    status = PREPARED | {"placement": placement, "conditions": [prepared, is_running | {"reason": running}]}
    seen = observed({"queueName": "team"}, status, queues=("team",), pods=pods, **more)
    made = gang(subject_of(seen)[0], 1)
    made["metadata"] |= {"uid": "gang-1", "creationTimestamp": "2026-01-01T11:59:00Z"}
    policy = made["spec"]["runPolicy"] if kind == PYTORCHJOB.kind else made["spec"]
    assert policy["suspend"] is True
    policy["suspend"] = suspended
    return observed({"queueName": "team"}, status, queues=("team",), pods=pods, gangs=(made,), **more)


def running(todo: Plan) -> tuple[str, str]:
    told = condition(todo.status, "Running")
    return told["reason"], told["message"]


def writes(todo: Plan) -> list[str]:
    return [type(action).__name__ for action in todo.actions if action.kind in GANGS]


@KINDS
def test_gang_that_is_not_admitted_is_queued_with_kueues_reason(kind: str) -> None:
    todo = plan(queued(running="Creating", kind=kind, admission=PENDING))
    assert todo.status["phase"] == "Queued"
    assert running(todo) == ("Queued", "Pending: insufficient unused quota for cpu")
    assert [announced.reason for announced in todo.announcements if announced.reason == "Queued"] == [
        "Queued"
    ]
    assert not writes(todo), "what Kueue suspended, it alone resumes"
    assert "startTime" not in todo.status, "the time in the queue is none of the job's"


def test_gang_of_a_queue_carries_its_name_and_the_priority_that_the_job_has() -> None:
    seen = observed({"queueName": "team"}, queues=("team",))
    seen.raw["metadata"]["labels"] = {"kueue.x-k8s.io/priority-class": "urgent", "mine": "1"}
    labels = gang(subject_of(seen)[0], 1)["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team"
    assert labels["kueue.x-k8s.io/priority-class"] == "urgent"
    assert "mine" not in labels


def test_a_gang_without_a_queue_starts_at_once() -> None:
    made = gang(subject_of(observed())[0], 1)
    assert "suspend" not in made["spec"]["runPolicy"]
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]


@KINDS
def test_preempted_gang_makes_room_and_its_restart_is_not_counted(kind: str) -> None:
    leaving = pod(0, conditions=[], deletionTimestamp="2026-01-01T12:01:00Z")
    todo = plan(queued(leaving, pod(1), running="Training", kind=kind, admission=PREEMPTED))
    assert todo.status["phase"] == "Restarting"
    restarting = condition(todo.status, "Restarting")
    assert restarting["reason"] == "Preempted"
    assert "by a workload of higher priority" in restarting["message"]
    assert "restartsCounted" not in todo.status
    assert writes(todo) == ["Delete"]


def test_preemption_that_nobody_saw_is_one_too() -> None:
    todo = plan(queued(running="Training", admission=PREEMPTED))
    assert condition(todo.status, "Restarting")["reason"] == "Preempted"


def test_gang_that_was_stopped_for_another_reason_says_which() -> None:
    stopped = Admission(reason="ClusterQueueStopped", message="the ClusterQueue is stopped")
    restarting = condition(plan(queued(running="Training", admission=stopped)).status, "Restarting")
    assert restarting["reason"] == "Evicted"
    assert "ClusterQueueStopped" in restarting["message"]


def test_user_error_before_the_preemption_ends_the_job() -> None:
    todo = plan(queued(pod(0, code=2), pod(1), running="Training", admission=PREEMPTED))
    assert todo.status["phase"] == "Failed"


def test_pods_that_run_while_their_gang_reads_suspended_are_waited_for() -> None:
    """The watch of gangs may be behind that of pods: Kueue has admitted the gang meanwhile."""
    todo = plan(queued(pod(0), pod(1), admission=PENDING))
    assert not writes(todo)
    assert todo.status.get("phase") != "Restarting"
    assert todo.look_again is not None


def test_gang_that_waits_for_its_turn_is_neither_stalled_nor_half_placed() -> None:
    waiting = queued(admission=PENDING, silence=timedelta(hours=5), waited=timedelta(hours=5))
    assert plan(waiting).status["phase"] == "Queued"


def test_admitted_gang_starts_its_clock() -> None:
    todo = plan(queued(pod(0), pod(1), suspended=False))
    assert todo.status["startTime"] == "2026-01-01T12:00:00Z"
    assert running(todo)[0] != "Queued"


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        pytest.param(None, "this cluster has no Kueue", id="no Kueue"),
        pytest.param((), "there are none", id="no queue"),
        pytest.param(("a", "b"), "there are a, b", id="other queues"),
    ],
)
def test_queue_that_is_not_there_is_said_with_the_remedy(queues: tuple[str, ...] | None, words: str) -> None:
    todo = plan(observed({"queueName": "team"}, queues=queues))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "QueueNotFound")
    assert words in accepted["message"]
    assert [announced.reason for announced in todo.announcements] == ["QueueNotFound"]
    assert not todo.actions


def workload(*conditions: tuple[str, str, str, str]) -> Object:
    told = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, status, reason, message in conditions
    ]
    return {"metadata": {"name": "w", "creationTimestamp": AT_ELEVEN}, "status": {"conditions": told}}


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        pytest.param([("QuotaReserved", "False", "Pending", "no quota")], "Pending", id="no quota"),
        pytest.param(
            [("QuotaReserved", "False", "Pending", "no quota"), ("Evicted", "True", "Preempted", "higher")],
            "Preempted",
            id="preempted",
        ),
        pytest.param(
            [("QuotaReserved", "True", "QuotaReserved", "q"), ("Evicted", "False", "QuotaReserved", "was")],
            "QuotaReserved",
            id="quota, but checks are open",
        ),
        pytest.param([], "Pending", id="just seen"),
    ],
)
def test_the_workload_tells_why(conditions: list[tuple[str, str, str, str]], reason: str) -> None:
    admission = queue.admission_of([workload(*conditions)])
    assert admission is not None
    assert admission.reason == reason


def test_kueue_that_takes_no_note_is_said_after_a_while() -> None:
    assert queue.admission_of([]) is None
    waiting = queued(running="Creating")
    told = plan(waiting)
    assert (told.status["phase"], running(told)[0]) == ("Queued", "Queued"), "a minute has passed"
    assert "integrations.frameworks" in running(told)[1]
    early = plan(replace(waiting, now=waiting.now - timedelta(seconds=50)))
    assert early.status["phase"] == "Queued"
    assert condition(early.status, "Running")["reason"] == "Creating", "Kueue has its time"


def test_kueue_is_asked_less_often_the_longer_a_gang_waits() -> None:
    pauses = [queue.pause(timedelta(minutes=minutes)).total_seconds() for minutes in (0, 1, 5, 600)]
    assert pauses == [5, 10, 50, 60]
