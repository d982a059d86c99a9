"""Jobs that began when the rules were others, and that would be refused by those of today."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.documents import ACCEPTED
from harness.documents import job as document
from harness.operated_job import OperatedJob
from harness.operator_view import PREPARED, condition, gang, observed, pod, subject
from harness.refused import REFUSED
from phitune_operator.accepted_once import as_accepted
from phitune_operator.kinds import CONFIG_MAP, JOB, POD, PYTORCHJOB, Object, uid_of
from phitune_operator.observed import Settings
from phitune_operator.plan import plan
from phitune_operator.render.config_map import config_map
from phitune_operator.render.volume import claim
from phitune_operator.validate import read_job, validate

Change = Callable[[Object], Any]
NEAR = {"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": ["pod-template-hash"]}
NEAR_EACH_OTHER = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [NEAR]}}
VARIABLE = {"name": "PHITUNE_X", "value": "1"}
UPGRADED = Settings(trainer_image="trainer:of-a-later-version")


def field_that_is_not_known(spec: Object) -> None:
    spec["podTemplate"] = {"affinity": NEAR_EACH_OTHER}


def variable_of_ours(spec: Object) -> None:
    spec["env"] = [VARIABLE]


def number_beyond_a_bound(spec: Object) -> None:
    spec["training"]["learningRate"] = 5.0


def word_of_no_list(spec: Object) -> None:
    spec["training"]["schedule"] = "step"


def task_of_no_list(spec: Object) -> None:
    spec["task"] = "digits"


WAYS = pytest.mark.parametrize(
    ("change", "path"),
    [
        (field_that_is_not_known, "[0].matchLabelKeys"),
        (variable_of_ours, "spec.env[0].name"),
        (number_beyond_a_bound, "spec.training.learningRate"),
        (word_of_no_list, "spec.training.schedule"),
        (task_of_no_list, "spec.task"),
    ],
)
"""What a spec holds, and where it is refused."""


def refused_from_now_on(digits: OperatedJob, change: Change) -> None:
    """An operator starts whose rules refuse what an earlier one accepted: the spec is as it was stored."""
    digits.cluster.change(digits.job, lambda obj: change(obj["spec"]))
    digits.start_operator(UPGRADED)


def running() -> OperatedJob:
    digits = OperatedJob()
    digits.flow_until(digits.cluster.running_trainers)
    return digits


def uids(digits: OperatedJob) -> list[str]:
    return [uid_of(pod) for pod in digits.cluster.live_trainers()]


def has_restarted(digits: OperatedJob) -> bool:
    return digits.status["attempt"] == 2 and len(digits.cluster.running_trainers()) == 2


@WAYS
def test_its_pods_go_on_and_it_says_what_would_be_refused(change: Change, path: str) -> None:
    digits = running()
    before = uids(digits)
    refused_from_now_on(digits, change)
    for _ in range(2):
        digits.flow()
    assert uids(digits) == before
    assert digits.status["phase"] == "Running"
    accepted = condition(digits.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"].startswith("the job goes on with what it began with")
    assert path in accepted["message"]


@WAYS
def test_a_restart_runs_what_was_pinned_and_the_job_comes_to_its_end(change: Change, path: str) -> None:
    digits = running()
    configs = [uid_of(config) for config in digits.children(CONFIG_MAP)]
    refused_from_now_on(digits, change)
    digits.cluster.end(digits.cluster.running_trainers()[0], 1)
    digits.flow_until(lambda: has_restarted(digits))
    assert digits.status["restartsCounted"] == 1
    assert [uid_of(config) for config in digits.children(CONFIG_MAP)] == configs
    for pod_made in digits.cluster.running_trainers():
        assert pod_made["spec"]["containers"][0]["image"] == "trainer:1"
        digits.cluster.end(pod_made, 0)
    digits.flow_until(lambda: digits.status["phase"] == "Succeeded")
    assert digits.cluster.gangs_made == ["digits-1", "digits-2"]
    assert path in condition(digits.status, "Accepted")["message"]


def test_what_it_says_of_its_pods_is_true_of_those_of_a_restart() -> None:
    digits = running()
    refused_from_now_on(digits, variable_of_ours)
    digits.cluster.remove(digits.cluster.running_trainers()[0])
    digits.flow_until(lambda: has_restarted(digits))
    for pod_made in digits.cluster.running_trainers():
        assert VARIABLE in pod_made["spec"]["containers"][0]["env"]


def test_an_error_of_its_user_ends_it() -> None:
    digits = running()
    refused_from_now_on(digits, field_that_is_not_known)
    digits.cluster.end(digits.cluster.running_trainers()[0], 2)
    digits.flow_until(lambda: digits.status["phase"] == "Failed")
    assert digits.status["failure"]["exitCode"] == 2


def test_pods_that_wait_for_a_node_are_left_alone() -> None:
    digits = OperatedJob()
    digits.flow_until(digits.cluster.live_trainers, without="start digits-1")
    before = uids(digits)
    refused_from_now_on(digits, field_that_is_not_known)
    for _ in range(3):
        digits.flow(without="start digits-1")
    assert uids(digits) == before
    assert digits.status["attempt"] == 1


def test_it_can_be_stopped_and_goes_on() -> None:
    digits = running()
    refused_from_now_on(digits, number_beyond_a_bound)
    digits.cluster.edit(digits.job, lambda spec: spec.update(runPolicy={"suspend": True}))
    digits.flow_until(lambda: digits.status["phase"] == "Suspended" and not digits.cluster.live_trainers())
    digits.cluster.edit(digits.job, lambda spec: spec.update(runPolicy={"suspend": False}))
    digits.flow_until(lambda: has_restarted(digits))


def test_what_is_being_fetched_is_fetched_to_its_end_and_no_gang_follows_until_it_is_mended() -> None:
    digits = OperatedJob()
    digits.flow_until(lambda: digits.cluster.of_kind(POD), without="prepared")
    refused_from_now_on(digits, variable_of_ours)
    for _ in range(4):
        digits.flow()
    assert condition(digits.status, "Prepared")["status"] == "True"
    assert condition(digits.status, "Accepted")["reason"] == "InvalidSpec"
    assert digits.cluster.gangs_made == []
    digits.cluster.edit(digits.job, lambda spec: spec.pop("env"))
    digits.flow_until(lambda: digits.children(PYTORCHJOB))
    assert condition(digits.status, "Accepted")["status"] == "True"


@WAYS
def test_one_that_never_began_is_refused_and_nothing_is_made_for_it(change: Change, path: str) -> None:
    digits = OperatedJob()
    refused_from_now_on(digits, change)
    for _ in range(3):
        digits.flow()
    accepted = condition(digits.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert path in accepted["message"]
    assert "goes on" not in accepted["message"]
    assert digits.status["phase"] == "Pending"
    assert not [child for kind in (CONFIG_MAP, JOB, PYTORCHJOB) for child in digits.children(kind)]


def test_whatever_is_refused_of_a_job_its_gang_is_judged_and_a_restart_planned() -> None:
    ended = (pod(0, code=1), pod(1, code=1))
    there: Any = {"claim": claim(subject()), "config_map": config_map(subject()), "gangs": (gang(),)}
    seen = observed(None, copy.deepcopy(PREPARED), pods=ended, **there)
    num_followed = 0
    for row in REFUSED:
        job = as_accepted({**document(), "spec": row.document.get("spec")})
        if job is None:
            continue  # no API server has stored that
        num_followed += 1
        judged = plan(replace(seen, job=job, problems=tuple(map(str, validate(row.document)))))
        is_spent = job.spec.run_policy.restart_limit < 1
        assert condition(judged.status, "Failed" if is_spent else "Restarting")["status"] == "True", row.id
        between = {**seen.raw, "status": judged.status}
        plan(replace(seen, job=job, raw=between, gangs=(), pods=()))
    assert num_followed > 100


@pytest.mark.parametrize("given", ACCEPTED.values(), ids=ACCEPTED)
def test_a_job_that_is_accepted_reads_the_same_unjudged(given: Object) -> None:
    assert as_accepted(given) == read_job(given)


def test_what_is_refused_stands_as_it_is_stored_but_for_fields_that_are_not_known() -> None:
    resources = {"nodes": 5000, "gpusPerNode": 0, "cpu": 4}
    job = as_accepted(document({"resources": resources, "image": "no image", "of": 1}))
    assert job is not None
    assert (job.spec.resources.nodes, job.spec.resources.cpu, job.spec.image) == (5000, "4", "no image")
    assert not hasattr(job.spec, "of")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"resources": {"nodes": "two"}}, id="another type"),
        pytest.param({"resources": {"memory": "plenty"}}, id="no number, where one calculates with it"),
        pytest.param({"runPolicy": {"activeDeadline": "2d"}}, id="no time, where one calculates with it"),
        pytest.param({"storage": None}, id="what is needed, and not there"),
    ],
)
def test_what_no_version_can_have_accepted_is_not_followed(spec: Object) -> None:
    assert as_accepted(document(spec)) is None
