"""The operator as a process against a real API server: what it makes of a job, and what it says if it cannot.

Nothing here needs a trainer: the image of these jobs runs no Python, or does not exist.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster, Object
from harness.crd import installed_crd
from harness.installed import no_installed_operator
from harness.jobs import finetunejob
from harness.lab import Lab
from harness.ports import free_port

NO_IMAGE = "localhost/phitune/no-such-trainer:1"


@pytest.fixture(scope="module")
def labs(cluster: Cluster) -> Iterator[tuple[Lab, Lab, Lab]]:
    """Three namespaces; in the second no pod is allowed, in the third none without a limit on its CPUs."""
    with (
        cluster.temporary_namespace("operator") as free,
        cluster.temporary_namespace("operator-full") as full,
        cluster.temporary_namespace("operator-strict") as strict,
    ):
        cluster.apply(quota("pods", "0"), namespace=full)
        cluster.apply(quota("limits.cpu", "64"), namespace=strict)
        yield Lab(cluster, free, NO_IMAGE), Lab(cluster, full, NO_IMAGE), Lab(cluster, strict, NO_IMAGE)


def quota(resource: str, hard: str) -> Object:
    spec = {"hard": {resource: hard}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": spec}


@pytest.fixture(scope="module", autouse=True)
def operator(
    cluster: Cluster, labs: tuple[Lab, Lab, Lab], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[bytes]]:
    """The operator's process, serving the three namespaces, and no other beside it."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with installed_crd(cluster), no_installed_operator(cluster):
        process = start(labs, log)
        yield process
        process.terminate()
        process.wait(30)
    lines = log.read_text()
    assert "traceback" not in lines, lines


def start(labs: tuple[Lab, Lab, Lab], log: Path) -> subprocess.Popen[bytes]:
    namespaces = [f"--namespace={lab.namespace}" for lab in labs]
    options = ["--trainer-image", NO_IMAGE, "--health-port", str(free_port()), *namespaces]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "phitune_operator.main", *options],
            env={**os.environ, "KUBECONFIG": str(labs[0].cluster.kubeconfig)},
            stderr=output,
        )


@pytest.fixture
def lab(labs: tuple[Lab, Lab, Lab]) -> Lab:
    return labs[0]


def accepted(lab: Lab, name: str, reason: str) -> str:
    """Wait until Accepted has this reason; the job has an Event that says the same. Returns the message."""

    def reached() -> Object | None:
        condition = lab.condition(name, "Accepted")
        return condition if condition.get("reason") == reason else None

    message: str = lab.wait(f"reason {reason} of {name}", reached, timeout=60)["message"]
    if reason != "Accepted":
        lab.wait("Event", lambda: (reason, message[:1024]) in lab.events(name), timeout=20)
    return message


def test_makes_volume_and_prepare_job_and_says_that_the_image_is_missing(lab: Lab) -> None:
    lab.apply(finetunejob("image"))
    assert NO_IMAGE in accepted(lab, "image", "NoImage")
    claim = lab.cluster.get("pvc", "image-workspace", lab.namespace)
    prepare = lab.cluster.get("job", "image-prepare", lab.namespace)
    assert claim is not None
    assert prepare is not None
    assert "ownerReferences" not in claim["metadata"], "weights stay when the job goes"
    assert lab.cluster.get("configmap", "image-config", lab.namespace) is None, "made with the first gang"
    assert prepare["metadata"]["ownerReferences"][0]["name"] == "image"
    uid = prepare["metadata"]["uid"]
    lab.cluster.patch("ftj", "image", lab.namespace, {"spec": {"image": "localhost/busybox:1"}})
    accepted(lab, "image", "Accepted")
    replaced = lab.cluster.get("job", "image-prepare", lab.namespace)
    assert replaced is not None
    assert replaced["metadata"]["uid"] != uid


@pytest.mark.parametrize(
    ("name", "spec", "reason", "words"),
    [
        pytest.param("queued", {"queueName": "q"}, "QueueNotFound", "spec.queueName", id="no queue"),
        pytest.param(
            "gpu",
            {"resources": {"gpusPerNode": 2, "gpuProducts": ["No-Such"]}},
            "NoSuchGPU",
            "2 node(s) with 2 GPU(s) each of No-Such",
            id="no such gpu",
        ),
    ],
)
def test_what_cannot_run_here_is_said_and_nothing_is_made(
    lab: Lab, name: str, spec: dict[str, Any], reason: str, words: str
) -> None:
    lab.apply(finetunejob(name, spec))
    assert words in accepted(lab, name, reason)
    assert lab.status(name)["phase"] == "Pending"
    assert lab.cluster.get("job", f"{name}-prepare", lab.namespace) is None


def test_claim_that_is_missing_is_said_until_it_is_there(lab: Lab) -> None:
    lab.apply(finetunejob("claimed", {"storage": {"size": None, "claimName": "late"}}))
    assert "late" in accepted(lab, "claimed", "ClaimNotFound")
    lab.make_claim("late")
    lab.wait_for_phase("claimed", "Preparing", timeout=60)


def test_claim_of_one_node_is_refused_for_two(lab: Lab) -> None:
    lab.make_claim("single", mode="ReadWriteOnce")
    lab.apply(finetunejob("narrow", {"storage": {"size": None, "claimName": "single"}}))
    assert "ReadWriteMany" in accepted(lab, "narrow", "ClaimNotShareable")


def test_claim_that_somebody_else_made_is_not_taken_over(lab: Lab) -> None:
    lab.make_claim("foreign-workspace")
    lab.apply(finetunejob("foreign"))
    assert "foreign-workspace" in accepted(lab, "foreign", "ClaimNotOurs")


def test_object_of_a_childs_name_is_not_taken_over(lab: Lab) -> None:
    container = {"name": "mine", "image": NO_IMAGE}
    theirs = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "taken-prepare"},
        "spec": {
            "suspend": True,
            "template": {"spec": {"containers": [container], "restartPolicy": "Never"}},
        },
    }
    lab.apply(theirs, finetunejob("taken"))
    assert "Job taken-prepare" in accepted(lab, "taken", "NameCollision")

    def of_prepare() -> Object:
        return lab.cluster.get("job", "taken-prepare", lab.namespace) or {"spec": {"suspend": None}}

    assert of_prepare()["spec"]["suspend"] is True
    lab.cluster.kubectl("delete", "job", "taken-prepare", "-n", lab.namespace)
    lab.wait("prepare Job", lambda: of_prepare()["spec"]["suspend"] is False, timeout=60)


def test_quota_that_is_used_up_is_said(labs: tuple[Lab, Lab, Lab]) -> None:
    full = labs[1]
    full.apply(finetunejob("poor"))
    assert "exceeded quota" in accepted(full, "poor", "QuotaExceeded")


def test_quota_that_counts_what_pods_do_not_set_is_said_with_what_sets_it(labs: tuple[Lab, Lab, Lab]) -> None:
    strict = labs[2]
    strict.apply(finetunejob("limitless"))
    message = accepted(strict, "limitless", "QuotaExceeded")
    assert "must specify limits.cpu" in message
    assert "a LimitRange of the namespace" in message


def test_suspended_job_has_no_pods_and_goes_on_when_resumed(lab: Lab) -> None:
    lab.apply(finetunejob("paused", {"runPolicy": {"suspend": True}}))
    lab.wait_for_condition("paused", "Suspended", "True", timeout=60)
    assert lab.pods("paused") == []
    lab.cluster.patch("ftj", "paused", lab.namespace, {"spec": {"runPolicy": {"suspend": False}}})
    lab.wait_for_phase("paused", "Preparing", timeout=60)
    lab.cluster.patch("ftj", "paused", lab.namespace, {"spec": {"runPolicy": {"suspend": True}}})
    lab.wait_for_condition("paused", "Suspended", "True", timeout=60)
    assert lab.cluster.get("job", "paused-prepare", lab.namespace) is None


def test_deleted_job_takes_all_but_its_volume_along_and_its_name_can_be_used_again(lab: Lab) -> None:
    lab.apply(finetunejob("again"))
    lab.wait_for_phase("again", "Preparing", timeout=60)
    volume = lab.cluster.get("pvc", "again-workspace", lab.namespace)
    lab.delete("again")
    lab.wait("clean-up", lambda: lab.cluster.get("job", "again-prepare", lab.namespace) is None, timeout=60)
    lab.apply(finetunejob("again"))
    lab.wait_for_phase("again", "Preparing", timeout=60)
    kept = lab.cluster.get("pvc", "again-workspace", lab.namespace)
    assert volume is not None
    assert kept is not None
    assert kept["metadata"]["uid"] == volume["metadata"]["uid"]


def test_operator_started_again_writes_nothing_where_nothing_changed(
    lab: Lab, labs: tuple[Lab, Lab, Lab], operator: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    lab.apply(finetunejob("still", {"queueName": "q"}))
    accepted(lab, "still", "QueueNotFound")
    before = lab.job("still")["metadata"]["resourceVersion"]
    operator.send_signal(signal.SIGKILL)
    operator.wait(30)
    log = tmp_path / "log"
    second = start(labs, log)
    try:
        lab.wait("second operator", lambda: "serving" in log.read_text() or None, timeout=60)
        lab.apply(finetunejob("sign-of-life", {"queueName": "q"}))
        accepted(lab, "sign-of-life", "QueueNotFound")
        assert lab.job("still")["metadata"]["resourceVersion"] == before
    finally:
        second.terminate()
        assert second.wait(30) == 0, log.read_text()
