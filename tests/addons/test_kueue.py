"""Gangs of each kind behind a real Kueue: they wait for quota, give way to what is urgent, and come back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.addons import KUEUE, add, local_queue, told_backend
from harness.cluster import Cluster, Object
from harness.incarnations import incarnations
from harness.installed import Installed
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.lab import Lab
from phitune_operator import names

pytestmark = pytest.mark.timeout(1200)
QUEUED = {"queueName": "team", "storage": {"size": None, "claimName": "shared"}}
"""What one job has prepared on the claim, the others do not wait for."""


@pytest.fixture(scope="module")
def kueue(cluster: Cluster) -> Cluster:
    """The cluster with Kueue, JobSet and Kubeflow Trainer."""
    add(cluster, "jobset", "trainer", "kueue")
    return cluster


@pytest.fixture(params=["pytorchjob", "jobset", "trainjob"])
def backend(kueue: Cluster, phitune: Installed, request: pytest.FixtureRequest) -> Iterator[str]:
    """The operator told to run new gangs so."""
    with told_backend(kueue, request.param):
        yield request.param


@pytest.fixture
def queue(kueue: Cluster, namespace: str) -> Iterator[None]:
    """A LocalQueue `team` with room for one gang, where the urgent goes first."""
    urgent = f"{namespace}-urgent"
    kueue.apply(
        {"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": urgent}, "value": 1000},
    )
    with local_queue(kueue, namespace, cpu="500m", memory="5Gi"):
        yield
    kueue.kubectl("delete", "workloadpriorityclass", urgent)


def urgent(job: Object, namespace: str) -> Object:
    job["metadata"]["labels"] = {names.LABEL_WORKLOAD_PRIORITY: f"{namespace}-urgent"}
    return job


@pytest.mark.usefixtures("queue")
def test_gangs_wait_for_quota_and_one_that_is_preempted_goes_on_from_its_checkpoint(
    lab: Lab, backend: str
) -> None:
    lab.make_claim("shared")
    lab.apply(finetunejob("first", long_enough_to_disturb({**QUEUED, "training": {"maxSteps": 150}})))
    lab.wait_for_checkpoint("first")
    lab.apply(finetunejob("second", QUEUED))

    def kueues_word() -> str | None:
        message = lab.condition("second", "Running").get("message", "")
        return message if "insufficient unused quota for cpu" in message else None

    lab.wait_for_phase("second", "Queued")
    assert lab.wait("Kueue's reason", kueues_word).startswith("Pending: ")
    lab.apply(urgent(finetunejob("urgent", QUEUED), lab.namespace))

    def preempted() -> bool:
        return "Preempted" in dict(lab.events("first"))

    lab.wait("preemption of the first", preempted, timeout=180)
    lab.wait_for_phase("urgent", "Succeeded")
    lab.wait_for_phase("second", "Succeeded")
    first = lab.wait_for_phase("first", "Succeeded", timeout=300)

    assert (first["restarts"], first["restartsCounted"]) == (1, 0), "a preemption is no fault of the job's"
    before, after = incarnations(lab, "first")
    assert before["last"] > 0
    assert after["start"]["from"] == {"incarnation": 1, "step": before["last"]}, "it saved before it left"
    assert {lab.status(name)["placement"]["backend"].lower() for name in ("first", "second", "urgent")} == {
        backend
    }


def test_a_queue_that_is_not_there_is_said_with_those_that_are(lab: Lab, kueue: Cluster, queue: None) -> None:
    lab.apply(finetunejob("astray", {"queueName": "teem"}))
    accepted = lab.wait_for_condition("astray", "Accepted", "False")
    assert accepted["reason"] == "QueueNotFound"
    assert "there are team" in accepted["message"]
    assert not lab.pods("astray")
