"""What the operator decides, a situation a row."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from harness.operator_view import NOON, PREPARED, UID, condition, gang, observed, pod, subject
from phitune_operator.kinds import (
    CLAIM,
    CONFIG_MAP,
    FINETUNEJOB,
    JOB,
    NETWORK_POLICY,
    POD,
    PYTORCHJOB,
    Kind,
    Object,
)
from phitune_operator.nodes import Node
from phitune_operator.observed import Create, Delete, NetworkAccess, Observed, Plan
from phitune_operator.plan import plan
from phitune_operator.pods import PodView, view
from phitune_operator.refusals import Refusal
from phitune_operator.render.config_map import config_map
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.volume import claim

CONFIG = config_map(subject())
VOLUME = claim(subject())
LATER: Any = {"deletionTimestamp": "2026-01-01T12:02:00Z"}


def last_words(step: int) -> str:
    """What a pod leaves behind that saved and left."""
    checkpoint = {"step": step, "path": f"checkpoints/step-{step}", "time": "2026-01-01T11:58:00Z"}
    return json.dumps({"exitCode": 75, "lastCheckpoint": checkpoint})


def running(*pods: Any, spec: Object | None = None, status: Object | None = None, **more: Any) -> Observed:
    """A job whose first gang exists, with these pods."""
    known = {"claim": VOLUME, "config_map": CONFIG, "gangs": (gang(),), "pods": pods}
    return observed(spec, copy.deepcopy(PREPARED) if status is None else status, **{**known, **more})


def prepare(outcome: str) -> Object:
    """The prepare Job when it is over."""
    return {**prepare_job(subject()), "status": {"conditions": [{"type": outcome, "status": "True"}]}}


def created(todo: Plan) -> list[tuple[Kind, str]]:
    return [(act.kind, act.body["metadata"]["name"]) for act in todo.actions if isinstance(act, Create)]


def deleted(todo: Plan) -> list[tuple[Kind, str]]:
    return [(act.kind, act.name) for act in todo.actions if isinstance(act, Delete)]


def with_condition(kind: str, value: str, reason: str = "", minutes_ago: int = 0) -> Object:
    """PREPARED and one more condition."""
    flipped = (NOON - timedelta(minutes=minutes_ago)).isoformat()
    entry = {"type": kind, "status": value, "reason": reason, "message": "", "lastTransitionTime": flipped}
    return {**copy.deepcopy(PREPARED), "conditions": [*copy.deepcopy(PREPARED["conditions"]), entry]}


def test_first_pass_makes_volume_and_prepare_job() -> None:
    todo = plan(observed())
    assert created(todo) == [(CLAIM, "digits-workspace"), (JOB, "digits-prepare")]
    assert todo.status["phase"] == "Preparing"
    assert todo.status["placement"]["image"] == "trainer:1"
    assert todo.status["artifacts"] == {"claim": "digits-workspace", "run": "runs/team/digits/12345678"}
    assert condition(todo.status, "Accepted")["status"] == "True"


def test_a_deleted_job_is_left_to_the_garbage_collector() -> None:
    seen = running(pod(0), pod(1))
    seen.raw["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert plan(seen) == Plan(status=seen.status)


def test_gang_gets_its_number_in_status_before_it_is_created() -> None:
    done = {
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        "metadata": {"name": "digits-prepare"},
    }
    todo = plan(observed(claim=VOLUME, prepare=done))
    assert todo.status["attempt"] == 1
    assert condition(todo.status, "Running")["reason"] == "Creating"
    assert created(todo) == [(CONFIG_MAP, "digits-config"), (PYTORCHJOB, "digits-1")]
    line = "kubectl logs -f -n team -l phitune.dev/job=digits,phitune.dev/rank=0"
    assert any(line in event.message for event in todo.announcements)


def test_prepare_that_found_a_user_error_fails_the_job_at_once() -> None:
    failed = prepare("Failed")
    words = '{"exitCode": 2, "message": "train.jsonl:3: not JSON", "failure": {"lastLines": ["a", "b"]}}'
    culprit = replace(pod(0, code=2, message=words), attempt=None)
    todo = plan(observed(claim=VOLUME, config_map=CONFIG, prepare=failed, pods=(culprit,)))
    assert todo.status["phase"] == "Failed"
    assert condition(todo.status, "Failed")["message"] == "train.jsonl:3: not JSON"
    assert todo.status["failure"]["exitCode"] == 2
    assert todo.status["failure"]["lastLines"] == ["a", "b"]


@pytest.mark.parametrize(
    ("pods", "phase", "reason", "counted"),
    [
        pytest.param((pod(0), pod(1)), "Running", "Unheard", None, id="all run, and nobody can ask them"),
        pytest.param((pod(0, code=0), pod(1)), "Running", "Training", None, id="master done, worker not"),
        pytest.param((pod(0, code=0), pod(1, code=0)), "Succeeded", "Completed", None, id="every pod done"),
        pytest.param(
            (pod(0, code=0), pod(1, code=1)), "Restarting", "Fault", 1, id="worker failed after master"
        ),
        pytest.param((pod(0, code=2), pod(1, code=1)), "Failed", "Failed", None, id="user error"),
        pytest.param((pod(0, code=75), pod(1, code=75)), "Restarting", "LeftUnasked", 1, id="left unasked"),
        pytest.param(
            (pod(0, code=75, **LATER), pod(1, code=75)), "Restarting", "PodDeleted", None, id="pod deleted"
        ),
    ],
)
def test_end_of_a_gang(pods: Any, phase: str, reason: str, counted: int | None) -> None:
    todo = plan(running(*pods))
    assert todo.status["phase"] == phase
    assert condition(todo.status, "Running")["reason"] == reason
    assert todo.status.get("restartsCounted") == counted
    assert deleted(todo) == ([(PYTORCHJOB, "digits-1")] if phase == "Restarting" else [])


def test_fault_beyond_the_restart_limit_fails_the_job() -> None:
    status = {**copy.deepcopy(PREPARED), "restartsCounted": 2}
    todo = plan(running(pod(0, code=1), pod(1), spec={"runPolicy": {"restartLimit": 2}}, status=status))
    assert condition(todo.status, "Failed")["reason"] == "RestartLimit"
    assert todo.status["failure"]["pod"] == "digits-1-master-0"


def test_checkpoint_saved_on_the_way_out_of_a_suspension_is_told() -> None:
    words, suspended = pod(0, code=75, message=last_words(40), **LATER), {"runPolicy": {"suspend": True}}
    stopping = plan(running(words, pod(1, **LATER), spec=suspended, gangs=()))
    assert stopping.status["lastCheckpoint"]["step"] == 40
    assert stopping.status["summary"]["lastCheckpoint"] == "step 40"
    vanished = plan(running(spec=suspended, gangs=(), farewell=words))
    assert condition(vanished.status, "Suspended")["status"] == "True"
    assert vanished.status["lastCheckpoint"]["step"] == 40


def test_checkpoint_saved_after_a_disruption_was_judged_is_told() -> None:
    status = with_condition("Restarting", "True", "Evicted")
    words = pod(0, code=75, message=last_words(40), **LATER)
    assert plan(running(words, status=status, gangs=())).status["lastCheckpoint"]["step"] == 40
    assert plan(running(status=status, gangs=(), farewell=words)).status["lastCheckpoint"]["step"] == 40


def test_last_words_of_an_earlier_attempt_are_not_taken_for_the_newest() -> None:
    status = {**with_condition("Restarting", "True", "Evicted"), "attempt": 2}
    words = pod(0, code=75, message=last_words(40))
    assert "lastCheckpoint" not in plan(running(status=status, gangs=(), farewell=words)).status


def test_config_that_was_broken_by_hand_fails_the_job_and_every_problem_is_named() -> None:
    broken = {**CONFIG, "data": {"train.yaml": "training: {maxSteps: many}\n"}}
    todo = plan(observed(claim=VOLUME, config_map=broken))
    failed = condition(todo.status, "Failed")
    assert (todo.status["phase"], failed["status"], failed["reason"]) == ("Failed", "True", "UserError")
    for words in ("ConfigMap digits-config", "train.yaml", "training.maxSteps", "apply it again"):
        assert words in failed["message"]
    assert created(todo) == []


@pytest.mark.parametrize(
    ("pods", "phase"),
    [
        pytest.param((pod(0), pod(1)), "Running", id="runs on"),
        pytest.param((pod(0, code=0), pod(1, code=0)), "Succeeded", id="succeeded"),
        pytest.param((pod(0, code=1), pod(1, code=1)), "Restarting", id="failed"),
        pytest.param((pod(0, code=2), pod(1, code=1)), "Failed", id="user error"),
    ],
)
def test_gang_is_judged_by_its_pods_though_its_config_is_broken_meanwhile(pods: Any, phase: str) -> None:
    broken = {**CONFIG, "data": {}}
    todo = plan(running(*pods, config_map=broken))
    assert todo.status["phase"] == phase
    if phase == "Restarting":
        after = plan(running(status=todo.status, config_map=broken, gangs=()))
        assert condition(after.status, "Failed")["reason"] == "UserError"


def test_pause_doubles_with_each_disruption_until_a_newer_checkpoint_is_saved() -> None:
    status: Object = copy.deepcopy(PREPARED)
    pauses = []
    for step in (None, None, None, 40, 40):
        if step is not None:
            checkpoint = {"step": step, "path": "c", "time": "2026-01-01T11:00:00Z"}
            status = {**status, "lastCheckpoint": checkpoint}
        ended = plan(running(pod(0, **LATER), pod(1), status=status))
        pauses.append(plan(running(status=ended.status, gangs=())).look_again)
        conditions = [known for known in ended.status["conditions"] if known["type"] != "Restarting"]
        status = {**ended.status, "conditions": conditions}
    assert pauses == [2.0, 4.0, 8.0, 2.0, 4.0]
    assert status["disruptions"] == {"count": 2, "checkpointStep": 40}
    assert "restartsCounted" not in status


def test_next_attempt_waits_until_no_pod_of_the_last_one_runs() -> None:
    status = with_condition("Restarting", "True", "Fault", minutes_ago=10)
    still = plan(running(pod(0), pod(1), status=status, gangs=()))
    assert (created(still), still.look_again) == ([], 5.0)
    gone = plan(running(replace(pod(0), is_gone=True), status=status, gangs=()))
    assert created(gone) == [(PYTORCHJOB, "digits-2")]
    assert gone.status["restarts"] == 1


def test_policies_that_somebody_has_deleted_are_there_again_before_the_next_gang() -> None:
    status = with_condition("Restarting", "True", "Fault", minutes_ago=10)
    seen = running(status=status, gangs=())
    guarded = replace(seen.settings, network=NetworkAccess(operator_namespace="phitune-system"))
    begun = plan(replace(seen, settings=guarded))
    assert created(begun) == [
        (NETWORK_POLICY, "digits-prepare"),
        (NETWORK_POLICY, "digits-trainer"),
        (PYTORCHJOB, "digits-2"),
    ]
    cut_off = replace(seen, settings=guarded, raw={**seen.raw, "status": dict(begun.status)})
    assert created(plan(cut_off)) == created(begun), "the status was written, and none of them"


def test_pods_that_wait_for_those_of_a_lost_node_are_given_ten_seconds_and_no_longer() -> None:
    lost = replace(pod(0, **LATER, deletionGracePeriodSeconds=120), is_gone=True)
    asked = pod(1, **LATER, deletionGracePeriodSeconds=120)
    hurried = pod(1, **LATER, deletionGracePeriodSeconds=10)

    def deletions(reason: str, *pods: PodView) -> list[tuple[str, int | None]]:
        status = with_condition("Restarting", "True", reason)
        actions = plan(running(*pods, status=status, gangs=())).actions
        return [(action.name, action.grace) for action in actions if isinstance(action, Delete)]

    both = [("digits-1-master-0", 10), ("digits-1-worker-0", 10)]
    judged = plan(running(lost, pod(1))).actions
    assert [(act.name, act.grace) for act in judged if isinstance(act, Delete)] == [*both, ("digits-1", None)]
    assert deletions("NodeLost", lost, asked) == both, "the lost one, too: its node may come back"
    assert deletions("NodeLost", replace(lost, grace=10), hurried) == []
    assert deletions("Evicted", pod(0, **LATER), asked) == [], "they save together, and may take their time"


def test_second_fault_waits_ten_seconds() -> None:
    status = {**with_condition("Restarting", "True", "Fault"), "restartsCounted": 2}
    todo = plan(running(status=status, gangs=()))
    assert (created(todo), todo.look_again) == ([], 10.0)
    later = plan(replace(running(status=status, gangs=()), now=NOON + timedelta(seconds=10)))
    assert created(later) == [(PYTORCHJOB, "digits-2")]


def test_suspend_deletes_the_gang_and_resume_takes_the_next_number() -> None:
    suspended = {"runPolicy": {"suspend": True}}
    stopping = plan(running(pod(0), pod(1), spec=suspended))
    assert deleted(stopping) == [(PYTORCHJOB, "digits-1")]
    assert condition(stopping.status, "Suspended")["reason"] == "Stopping"
    stopped = plan(running(spec=suspended, status=dict(stopping.status), gangs=()))
    assert condition(stopped.status, "Suspended")["status"] == "True"
    resumed = plan(running(status=dict(stopped.status), gangs=()))
    assert created(resumed) == [(PYTORCHJOB, "digits-2")]
    assert resumed.status["restartsCounted"] == 0


@pytest.mark.parametrize(
    ("has", "spec", "reason"),
    [
        pytest.param(None, {"claimName": "data", "size": None}, "ClaimNotFound", id="absent"),
        pytest.param(
            ["ReadWriteOnce"], {"claimName": "data", "size": None}, "ClaimNotShareable", id="one node only"
        ),
        pytest.param(["ReadWriteMany"], {}, "ClaimNotOurs", id="not made for us"),
    ],
)
def test_unusable_claim(has: list[str] | None, spec: Object, reason: str) -> None:
    found = None if has is None else {"metadata": {"name": "data"}, "spec": {"accessModes": has}}
    todo = plan(observed({"storage": spec}, claim=found))
    assert condition(todo.status, "Accepted")["reason"] == reason
    assert todo.actions == ()
    assert todo.look_again is not None


def test_claim_kept_from_an_earlier_job_of_the_name_is_taken_up() -> None:
    assert VOLUME is not None
    kept = copy.deepcopy(VOLUME)
    kept["metadata"]["labels"]["phitune.dev/job-uid"] = "an-earlier-one"
    assert (CLAIM, "digits-workspace") not in created(plan(observed(claim=kept)))


def test_kept_claim_that_is_smaller_than_asked_for_is_not_taken_up() -> None:
    assert VOLUME is not None
    kept = copy.deepcopy(VOLUME)
    kept["spec"]["resources"]["requests"]["storage"] = "1Mi"
    todo = plan(observed({"storage": {"size": "3Gi"}}, claim=kept))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ClaimTooSmall")
    assert "1Mi" in accepted["message"]
    assert "3Gi" in accepted["message"]
    grown = {**kept, "status": {"capacity": {"storage": "4Gi"}}}
    larger = plan(observed({"storage": {"size": "3Gi"}}, claim=grown))
    assert condition(larger.status, "Accepted")["status"] == "True"


def test_no_node_with_such_gpus_says_what_there_is() -> None:
    node = Node(name="n", labels={"nvidia.com/gpu.product": "A100"}, num_gpus=4)
    resources = {"gpusPerNode": 8, "gpuProducts": ["H100"], "cpu": None, "memory": None}
    asked = {"resources": resources, "training": {"globalBatchSize": 16}}
    todo = plan(observed(asked, nodes=(node,)))
    accepted = condition(todo.status, "Accepted")
    assert accepted["reason"] == "NoSuchGPU"
    assert "1 node(s) with 4x A100" in accepted["message"]


def test_image_that_cannot_be_pulled_is_said_while_the_pod_waits() -> None:
    todo = plan(running(replace(pod(0, phase="Pending"), bad_image="trainer:nope")))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["reason"], "trainer:nope" in accepted["message"]) == ("NoImage", True)
    assert "spec.image may be changed" in accepted["message"]


@pytest.mark.parametrize(
    "words",
    ['secret "hub" not found', "couldn't find key HF_TOKEN in Secret team/hub"],
    ids=["secret", "key"],
)
def test_missing_secret_is_named_and_the_job_goes_on_once_it_is_there(words: str) -> None:
    spec = {"model": {"init": None, "name": "team/model", "tokenSecret": "hub"}}
    waiting = {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": words}}}
    status = {"phase": "Pending", "containerStatuses": [{"name": "prepare", **waiting}]}
    stuck = replace(view({"metadata": {"name": "p", "uid": "p"}, "spec": {}, "status": status}), attempt=None)
    known = {"claim": VOLUME, "config_map": config_map(subject(spec)), "prepare": prepare_job(subject(spec))}
    todo = plan(observed(spec, **known, pods=(stuck,)))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "NoSecret")
    assert accepted["message"].startswith(words)
    assert "spec.model.tokenSecret" in accepted["message"]
    assert "kubectl create secret generic hub -n team --from-literal=HF_TOKEN=" in accepted["message"]
    assert condition(todo.status, "Prepared")["reason"] == "NoSecret"
    assert [event.reason for event in todo.announcements if event.is_warning] == ["NoSecret"]
    assert (todo.actions, todo.look_again is not None) == ((), True)
    started = plan(observed(spec, todo.status, **known, pods=(replace(stuck, bad_config=""),)))
    assert condition(started.status, "Accepted")["status"] == "True"
    assert condition(started.status, "Prepared")["reason"] == "Preparing"


def test_refused_write_stays_said_until_it_succeeds() -> None:
    refused = plan(observed(refusal=Refusal(reason="QuotaExceeded", message="full")))
    again = plan(observed(status=refused.status))
    assert condition(again.status, "Accepted")["reason"] == "QuotaExceeded"
    assert again.announcements == ()
    through = plan(running(pod(0), pod(1), status={**refused.status, **copy.deepcopy(PREPARED)}))
    assert condition(through.status, "Accepted")["status"] == "True"


def test_failed_job_stops_pods_that_still_run_and_keeps_those_that_ended() -> None:
    status = with_condition("Failed", "True", "UserError")
    assert deleted(plan(running(pod(0, code=2), pod(1), status=status))) == [(POD, "digits-1-worker-0")]


def test_deadline_ends_the_job() -> None:
    status = {**copy.deepcopy(PREPARED), "startTime": "2026-01-01T11:00:00Z"}
    todo = plan(running(pod(0), pod(1), spec={"runPolicy": {"activeDeadline": "1h"}}, status=status))
    assert condition(todo.status, "Failed")["reason"] == "DeadlineExceeded"
    after = plan(running(pod(0), pod(1), status=todo.status))
    assert deleted(after) == [(PYTORCHJOB, "digits-1")]


@pytest.mark.parametrize(("age", "expected"), [(4, ([], 1.0)), (5, ([(FINETUNEJOB, "digits")], 5.0))])
def test_time_to_live(age: int, expected: Any) -> None:
    ended = (NOON - timedelta(seconds=age)).isoformat()
    status = {**with_condition("Succeeded", "True"), "completionTime": ended}
    todo = plan(running(spec={"runPolicy": {"ttlAfterFinished": "5s"}}, status=status))
    assert (deleted(todo), todo.look_again) == expected


def test_status_that_was_lost_never_leads_to_an_attempt_of_an_old_number() -> None:
    status = {**with_condition("Restarting", "True", "Fault", minutes_ago=10), "attempt": 1}
    seen = running(status=status, gangs=(gang(4),))
    assert seen.attempt == 4
    assert seen.uid == UID


def test_same_things_seen_give_the_same_plan() -> None:
    seen = running(pod(0), pod(1))
    assert plan(seen) == plan(seen)
    settled = plan(replace(seen, raw={**seen.raw, "status": plan(seen).status}))
    assert settled.status == plan(seen).status
    assert settled.announcements == ()
