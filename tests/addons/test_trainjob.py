"""Gangs that are TrainJobs, run by a real Kubeflow Trainer 2: made, followed, taken away and made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.addons import add, told_backend
from harness.cluster import Cluster, CommandError, Object
from harness.incarnations import incarnations
from harness.installed import Installed
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.kill import kill_container
from harness.lab import Lab, last_words
from harness.operator_view import subject
from phitune_operator import names
from phitune_operator.render.gang import with_needs

pytestmark = pytest.mark.timeout(900)
KINDS = ("trainjobs", "trainingruntimes", "jobsets.jobset.x-k8s.io", "jobs")


@pytest.fixture(scope="module")
def trainer(cluster: Cluster) -> Cluster:
    """The cluster with Kubeflow Trainer and the JobSet that it needs."""
    add(cluster, "jobset", "trainer")
    return cluster


@pytest.fixture(scope="module")
def trainjobs(trainer: Cluster, phitune: Installed) -> Iterator[None]:
    """The operator told to run new gangs as TrainJobs."""
    with told_backend(trainer, "trainjob"):
        yield


def of_gangs(lab: Lab, name: str) -> dict[str, list[str]]:
    """Names of what there is of the job's gangs, by kind, beside pods."""
    labels = f"{names.LABEL_JOB}={name},{names.LABEL_ROLE}={names.ROLE_TRAINER}"
    return {
        kind: sorted(one["metadata"]["name"] for one in lab.cluster.list(kind, lab.namespace, labels))
        for kind in KINDS
    }


def attempt(name: str, number: int) -> dict[str, list[str]]:
    """The same, of one attempt and none other."""
    gang = names.gang(name, number)
    jobs = [names.jobset_job(name, number)]
    return dict(zip(KINDS, ([gang], [gang], [gang], jobs), strict=True))


SHORT = {"training": {"maxSteps": 30}}
NOTHING: dict[str, list[str]] = {kind: [] for kind in KINDS}


def conditions(obj: Object | None) -> set[str]:
    return {
        one["type"]
        for one in ((obj or {}).get("status") or {}).get("conditions", [])
        if one["status"] == "True"
    }


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"resources": {"nodes": 1}}, id="one node on CPU"),
        pytest.param(
            {
                "resources": {"nodes": 2, "gpusPerNode": 2, "priorityClassName": "high"},
                "imagePullSecrets": [{"name": "registry"}],
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "podTemplate": {"labels": {"team": "vision"}, "annotations": {"a": "b"}},
                "queueName": "team",
            },
            id="two nodes with GPUs and all that pods may be given",
        ),
    ],
)
def test_api_server_and_webhooks_admit_what_is_made_and_know_every_field_of_it(
    trainer: Cluster, namespace: str, spec: Object
) -> None:
    runtime, trainjob = with_needs(replace(subject(spec), namespace=namespace, backend="TrainJob"), 1)
    for made in (runtime, trainjob):
        del made["metadata"]["ownerReferences"]  # to a FineTuneJob that is not there

    with pytest.raises(CommandError, match="must be created before the TrainJob"):
        create(trainer, trainjob)
    create(trainer, runtime)

    def known() -> bool:
        try:
            create(trainer, trainjob)
        except CommandError as refused:
            if "must be created before the TrainJob" in str(refused):
                return False
            raise
        return True

    Lab(trainer, namespace, "").wait("admission of the TrainJob", known, timeout=30)


def create(cluster: Cluster, obj: Object) -> None:
    cluster.kubectl("create", "--validate=strict", "-f", "-", stdin=json.dumps(obj))


@pytest.mark.usefixtures("trainjobs")
def test_two_nodes_train_through_a_trainjob(lab: Lab) -> None:
    lab.apply(finetunejob("digits"))
    status = lab.wait_for_phase("digits", "Succeeded")

    assert status["placement"]["backend"] == "TrainJob"
    assert (status["attempt"], status["restarts"]) == (1, 0)
    assert of_gangs(lab, "digits") == attempt("digits", 1)
    ranks = lab.pods("digits", role="trainer")
    assert {pod["metadata"]["labels"][names.LABEL_INDEX] for pod in ranks} == {"0", "1"}
    proofs = [proof for pod in ranks for proof in last_words(pod)["ranks"]]
    assert len(proofs) == 2
    assert {proof["steps"] for proof in proofs} == {4}
    assert len({proof["parametersHash"] for proof in proofs}) == 1, "they trained one model"

    def told() -> bool:
        return "Complete" in conditions(lab.cluster.get("trainjob", "digits-1", lab.namespace))

    lab.wait("the TrainJob's own word", told)
    lab.delete("digits")
    lab.wait("end of all that was made", lambda: of_gangs(lab, "digits") == NOTHING)


@pytest.mark.usefixtures("trainjobs")
def test_killed_pod_of_a_trainjob_brings_the_whole_gang_back_and_nothing_of_the_first_stays(lab: Lab) -> None:
    lab.apply(finetunejob("killed", long_enough_to_disturb(SHORT)))
    lab.wait_for_checkpoint("killed")
    trainers = lab.pods("killed", role="trainer")
    (worker,) = [pod for pod in trainers if pod["metadata"]["labels"][names.LABEL_INDEX] == "1"]
    kill_container(lab, worker)
    status = lab.wait_for_phase("killed", "Succeeded", timeout=300)

    assert (status["attempt"], status["restartsCounted"]) == (2, 1)
    assert status["progress"]["step"] == 30
    assert len(lab.pods("killed", role="trainer", attempt=2)) == 2
    before, after = incarnations(lab, "killed")
    assert 0 <= before["last"] - after["start"]["from"]["step"] <= 5, "no more is lost than one save interval"
    lab.wait("end of the first attempt", lambda: of_gangs(lab, "killed") == attempt("killed", 2))


@pytest.mark.usefixtures("trainjobs")
def test_suspended_job_leaves_no_trainjob_and_goes_on_when_resumed(lab: Lab) -> None:
    lab.apply(finetunejob("paused", long_enough_to_disturb(SHORT)))
    lab.wait_for_checkpoint("paused")
    lab.suspend("paused", True)
    lab.wait_for_condition("paused", "Suspended", "True")
    lab.wait("end of the gang", lambda: of_gangs(lab, "paused") == NOTHING, timeout=30)
    lab.suspend("paused", False)
    status = lab.wait_for_phase("paused", "Succeeded", timeout=300)
    assert (status["attempt"], status["restartsCounted"]) == (2, 0)
    assert of_gangs(lab, "paused") == attempt("paused", 2)


@pytest.mark.usefixtures("trainjobs")
def test_trainjob_deleted_by_hand_is_made_again_without_a_count(lab: Lab) -> None:
    lab.apply(finetunejob("deleted", long_enough_to_disturb(SHORT)))
    lab.wait_for_checkpoint("deleted")
    lab.cluster.kubectl("delete", "trainjob", "deleted-1", "-n", lab.namespace, "--wait=false")
    status = lab.wait_for_phase("deleted", "Succeeded", timeout=300)
    assert (status["attempt"], status["restartsCounted"]) == (2, 0)
    assert "GangDeleted" in dict(lab.events("deleted"))
    lab.wait("end of its runtime", lambda: of_gangs(lab, "deleted") == attempt("deleted", 2))


@pytest.mark.usefixtures("trainjobs")
def test_pods_that_a_quota_keeps_out_are_said_on_the_job(lab: Lab) -> None:
    """The Job below the JobSet below the TrainJob is told why."""
    quota = {"hard": {"count/jobs.batch": "4", "requests.cpu": "600m"}}
    lab.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": quota})
    lab.apply(finetunejob("large", {"resources": {"cpu": "400m"}}))
    accepted = lab.wait_for_condition("large", "Accepted", "False")
    assert accepted["reason"] == "QuotaExceeded"
    assert "requests.cpu" in accepted["message"]


@pytest.mark.parametrize("kind", ["TrainingRuntime", "JobSet"])
@pytest.mark.usefixtures("trainjobs")
def test_what_somebody_else_has_made_under_the_name_is_left_alone(lab: Lab, kind: str) -> None:
    runtime, _ = with_needs(replace(subject(), namespace=lab.namespace, backend="TrainJob"), 1)
    api, spec = {
        "TrainingRuntime": (runtime["apiVersion"], runtime["spec"]),
        "JobSet": ("jobset.x-k8s.io/v1alpha2", {**runtime["spec"]["template"]["spec"], "suspend": True}),
    }[kind]
    theirs = {"apiVersion": api, "kind": kind, "metadata": {"name": "taken-1"}, "spec": spec}
    lab.apply(theirs)
    lab.apply(finetunejob("taken"))
    accepted = lab.wait_for_condition("taken", "Accepted", "False")
    assert accepted["reason"] == "NameCollision"
    assert accepted["message"].startswith(f"{kind} taken-1 exists")
    assert not lab.cluster.list("trainjobs", lab.namespace)
