"""Gangs as PyTorchJobs, JobSets and TrainJobs: which one a job gets, and how its pods find each other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from harness.operator_view import NOON, observed, pod, subject
from phitune_operator import names
from phitune_operator.apply import carry_out
from phitune_operator.backends import AUTO, backend_of, chosen
from phitune_operator.decide import subject_of
from phitune_operator.installed import Installed
from phitune_operator.kinds import (
    GANGS,
    JOBSET,
    OPTIONAL,
    POD,
    POD_GROUP,
    PYTORCHJOB,
    TRAINING_RUNTIME,
    TRAINJOB,
    Kind,
    Object,
    labels_of,
    name_of,
)
from phitune_operator.kube import ApiError, Kube
from phitune_operator.observed import Create, Settings
from phitune_operator.pods import view
from phitune_operator.policies.gang_end import Verdict, how_it_ended
from phitune_operator.render.gang import gang, with_needs
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.store import Store


class Discovery:
    """An API server that has these kinds."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds

    async def serves(self, kind: Kind) -> bool:
        return kind in self.kinds


def pod_of(gang: Object) -> Object:
    """The template of its job's pods."""
    (job,) = gang["spec"]["replicatedJobs"]
    template: Object = job["template"]["spec"]["template"]
    return template


def test_first_kind_that_is_there_is_taken_unless_one_is_wished_for() -> None:
    assert chosen(AUTO, GANGS) == PYTORCHJOB
    assert chosen(AUTO, [TRAINJOB, TRAINING_RUNTIME, JOBSET]) == JOBSET
    assert chosen(AUTO, [TRAINJOB, TRAINING_RUNTIME]) == TRAINJOB
    assert chosen("trainjob", GANGS) == TRAINJOB
    assert chosen("jobset", GANGS) == JOBSET
    assert chosen("jobset", [PYTORCHJOB]) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param({}, "JobSet", id="before the first attempt"),
        pytest.param({"placement": {"image": "i", "backend": "PyTorchJob"}}, "PyTorchJob", id="pinned"),
        pytest.param({"placement": {"image": "i"}}, "PyTorchJob", id="placed by an older operator"),
    ],
)
def test_a_job_keeps_the_kind_of_its_first_attempt(status: Object, kind: str) -> None:
    assert backend_of(status, default="JobSet") == kind
    seen = replace(observed({}, status), settings=Settings(trainer_image="t", backend="JobSet"))
    made, placement = subject_of(seen)
    assert made.backend == placement["backend"] == kind


def test_only_what_the_cluster_has_is_watched_and_what_comes_later_is_noticed() -> None:
    there = Discovery(PYTORCHJOB)
    installed = Installed(cast(Kube, there))

    async def later() -> None:
        await installed.find()
        assert set(installed.watched).isdisjoint({JOBSET, TRAINJOB, TRAINING_RUNTIME})
        assert {PYTORCHJOB, POD} <= set(installed.watched)
        there.kinds = OPTIONAL
        await installed.look_for_new()

    asyncio.run(later())
    assert installed.unwatched == (JOBSET, TRAINJOB, TRAINING_RUNTIME)
    assert installed.default == "PyTorchJob"


@pytest.mark.parametrize(("there", "wish"), [([], AUTO), ([PYTORCHJOB], "jobset")])
def test_operator_waits_for_the_kind_that_its_jobs_need(there: list[Kind], wish: str) -> None:
    with pytest.raises(ApiError, match="the cluster has no") as missing:
        asyncio.run(Installed(cast(Kube, Discovery(*there)), wish).find())
    assert missing.value.not_found


def test_pods_of_a_jobset_find_each_other_by_the_variables_of_a_pytorchjob() -> None:
    made = jobset(subject(), 3)
    variables: dict[str, Any] = {one["name"]: one for one in pod_of(made)["spec"]["containers"][0]["env"]}
    given = {name: one.get("value") for name, one in variables.items() if name.startswith("PET_")}
    assert given == {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": None,
        "PET_MASTER_ADDR": "digits-3-n-0-0.digits-3",
        "PET_MASTER_PORT": "23456",
    }
    path = variables["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_a_pod_of_a_jobset_that_fails_takes_no_other_along_and_is_not_made_again() -> None:
    (job,) = jobset(subject(), 1)["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimitPerIndex"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_pods_of_both_kinds_differ_in_nothing_but_how_they_find_each_other() -> None:
    ours = pod_of(jobset(subject(), 1))
    theirs = pytorchjob(subject(), 1)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    (container,), (other,) = ours["spec"].pop("containers"), theirs["spec"].pop("containers")
    container["env"] = [one for one in container["env"] if not one["name"].startswith("PET_")]
    assert container == other
    assert ours["spec"].pop("restartPolicy") == "Never"
    assert ours["spec"] == theirs["spec"]
    assert theirs["metadata"]["labels"].pop(names.LABEL_RANK) == "0"
    assert ours["metadata"] == theirs["metadata"]


def test_rank_zero_of_a_jobset_is_the_pod_of_index_zero() -> None:
    labels = pod_of(jobset(subject(), 1))["metadata"]["labels"]
    ranks = [
        view({"metadata": {"name": "p", "labels": {**labels, names.LABEL_INDEX: index}}}).is_rank_zero
        for index in ("0", "1")
    ]
    assert ranks == [True, False]


def test_names_of_a_jobsets_pods_fit_whatever_the_job_is_called() -> None:
    longest = f"{names.jobset_job('j' * names.MAX_JOB_NAME, 999_999)}-9999-abcde"
    assert len(longest) <= 63


def test_a_trainjob_runs_the_very_jobset_that_we_would_make() -> None:
    runtime, made = with_needs(replace(subject(), backend="TrainJob"), 3)
    assert [(one["kind"], name_of(one)) for one in (runtime, made)] == [
        ("TrainingRuntime", "digits-3"),
        ("TrainJob", "digits-3"),
    ]
    assert made["spec"] == {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "TrainingRuntime",
            "name": name_of(runtime),
        }
    }
    ours = jobset(subject(), 3)
    assert runtime["spec"]["template"] == {"metadata": {"labels": labels_of(ours)}, "spec": ours["spec"]}


def test_a_trainjob_waits_in_its_queue_and_its_runtime_has_none() -> None:
    runtime, made = with_needs(replace(subject({"queueName": "team"}), backend="TrainJob"), 1)
    assert made["spec"]["suspend"] is True
    assert labels_of(made)[names.LABEL_QUEUE] == "team"
    assert names.LABEL_QUEUE not in str(runtime), "Kueue would take its JobSet for a gang of its own"
    assert "suspend" not in runtime["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", GANGS, ids=str)
def test_whatever_a_gang_consists_of_goes_with_the_job_and_is_found_by_its_attempt(kind: Kind) -> None:
    for made in with_needs(replace(subject(), backend=kind.kind), 2):
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("FineTuneJob", subject().uid)
        assert labels_of(made)[names.LABEL_ATTEMPT] == "2"


@pytest.mark.parametrize(
    ("kind", "provider"),
    [
        (PYTORCHJOB, "the Kubeflow training-operator"),
        (JOBSET, "JobSet"),
        (TRAINJOB, "Kubeflow Trainer 2"),
        (TRAINING_RUNTIME, "Kubeflow Trainer 2"),
        (POD_GROUP, "the chart anew, which looks for it"),
    ],
    ids=str,
)
def test_a_kind_that_is_missing_is_said_with_what_brings_it(kind: Kind, provider: str) -> None:
    class Without:
        async def get(self, kind: Kind, namespace: str, name: str) -> None:
            return None

        async def create(self, kind: Kind, obj: Object) -> Object:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")

    metadata = {"name": "digits-1", "namespace": "team"}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    doing = carry_out(cast(Kube, Without()), Store(), [Create.of(body)], owner={})
    refusal = asyncio.run(doing)
    assert refusal is not None
    assert refusal.message == f"the cluster has no {kind} kind; install {provider}"


@pytest.mark.parametrize(("kind", "word"), [(JOBSET, "Completed"), (TRAINJOB, "Complete")], ids=str)
def test_a_gang_that_tells_of_its_end_is_not_believed_while_a_pod_of_it_lives(kind: Kind, word: str) -> None:
    made = gang(replace(subject(), backend=kind.kind), 1)
    ended = {**made, "status": {"conditions": [{"type": word, "status": "True"}]}}
    assert how_it_ended(ended, [pod(0), pod(1)], num_pods=2, now=NOON) is None
    vanished = how_it_ended(ended, [], num_pods=2, now=NOON)
    assert vanished is not None
    assert vanished.verdict is Verdict.DISRUPTED
