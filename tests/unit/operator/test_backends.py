"""Gangs as PyTorchJobs and as JobSets: which one a job gets, and that its pods find each other in both."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from harness.operator_view import observed, subject
from phitune_operator import names
from phitune_operator.backends import AUTO, backend_of, chosen
from phitune_operator.decide import subject_of
from phitune_operator.installed import Installed
from phitune_operator.kinds import GANGS, JOBSET, POD, PYTORCHJOB, Kind, Object
from phitune_operator.kube import ApiError, Kube
from phitune_operator.observed import Settings
from phitune_operator.pods import view
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pytorchjob import pytorchjob


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
    assert chosen(AUTO, [JOBSET]) == JOBSET
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
        assert JOBSET not in installed.watched
        assert {PYTORCHJOB, POD} <= set(installed.watched)
        there.kinds = GANGS
        await installed.look_for_new()

    asyncio.run(later())
    assert installed.unwatched == (JOBSET,)
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
