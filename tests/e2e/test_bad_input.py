"""Bad input ends in one clear message: what, where, how to fix. No endless retry, and no traceback."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.cluster import Object
from harness.installed import no_installed_operator
from harness.jobs import NUM_STEPS, finetunejob, long_enough_to_disturb, merged
from harness.lab import Lab, away_from, last_words, occupant

pytestmark = pytest.mark.timeout(300)

ONE_POD = {"resources": {"nodes": 1}}
ON_CLAIM = {"storage": {"size": None, "claimName": "mine"}}

# --- What the trainer finds out: exit code 2, and the job has failed at once. ---

PICTURE = """
import json, pathlib
from PIL import Image
data = pathlib.Path("/workspace/data/own")
(data / "images").mkdir(parents=True)
Image.new("RGB", (28, 28), "white").save(data / "images/good.png")
def sample(image):
    return json.dumps({"conversations": [{"images": [image], "user": "Which colour?", "assistant": "white"}]})
"""
LINES = {
    "malformed line": 'lines = [sample("good.png"), "{broken", sample("good.png")]',
    "missing picture": 'lines = [sample("good.png"), sample("lost.png")]',
    "no picture": '(data / "images/text.png").write_text("no picture"); lines = [sample("text.png")]',
}
WRITE = '\n(data / "train.jsonl").write_text("\\n".join(lines) + "\\n")'
OWN_DATA = {"data": {"generate": None, "path": "data/own"}}


def assert_failed_at_once(lab: Lab, name: str, *said: str) -> Object:
    """The job has failed with exit code 2 in its first attempt, and its status says what is wrong."""
    status = lab.wait_for_phase(name, "Failed", timeout=120)
    failure: Object = status["failure"]
    assert failure["exitCode"] == 2, failure
    assert status.get("restarts", 0) == 0
    for words in said:
        assert words in failure["message"], failure["message"]
    assert "Traceback" not in failure["message"]
    begun = [pod for pod in lab.pods(name) if pod["status"]["phase"] != "Pending"]
    assert begun
    for pod in begun:
        log = lab.cluster.kubectl("logs", pod["metadata"]["name"], "-n", lab.namespace)
        assert "Traceback" not in log
    assert_operator_is_calm(lab)
    return failure


def assert_operator_is_calm(lab: Lab) -> None:
    assert "Traceback" not in lab.cluster.operator_log()


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("malformed line", ["train.jsonl:2"]),
        ("missing picture", ["train.jsonl:2", "lost.png"]),
        ("no picture", ["train.jsonl:1", "text.png"]),
    ],
)
def test_bad_sample_is_named_by_file_and_line(lab: Lab, mistake: str, said: list[str]) -> None:
    lab.make_claim("mine")
    lab.on_claim("mine", PICTURE + LINES[mistake] + WRITE)
    lab.apply(finetunejob("sample", merged(merged(ONE_POD, ON_CLAIM), OWN_DATA)))
    assert_failed_at_once(lab, "sample", *said)


def test_base_model_that_is_not_there_is_named(lab: Lab) -> None:
    lab.apply(finetunejob("nomodel", merged(ONE_POD, {"model": {"init": None, "path": "models/lost"}})))
    assert_failed_at_once(lab, "nomodel", "models/lost")


def test_base_model_that_is_incomplete_is_told_what_is_missing(lab: Lab) -> None:
    lab.make_claim("mine")
    lab.apply(finetunejob("whole", merged(merged(ONE_POD, ON_CLAIM), {"training": {"maxSteps": 1}})))
    lab.wait_for_phase("whole", "Succeeded")
    copy = """
import pathlib, shutil
(made,) = pathlib.Path("/workspace/models/init-tiny").iterdir()
shutil.copytree(made, "/workspace/models/torn")
for path in pathlib.Path("/workspace/models/torn").glob("*.safetensors"):
    path.unlink()
"""
    lab.on_claim("mine", copy)
    torn = {"model": {"init": None, "path": "models/torn"}}
    lab.apply(finetunejob("torn", merged(merged(ONE_POD, ON_CLAIM), torn)))
    assert_failed_at_once(lab, "torn", "models/torn", "safetensors")


def test_volume_that_is_read_only_is_said(lab: Lab) -> None:
    if not lab.cluster.is_local:
        pytest.skip("makes a volume read-only by an annotation of the local cluster's storage class")
    read_only = {"local.phitune.dev/size-limit": "50Mi", "local.phitune.dev/read-only": "true"}
    lab.make_claim("mine", **read_only)
    lab.apply(finetunejob("readonly", merged(ONE_POD, ON_CLAIM)))
    assert_failed_at_once(lab, "readonly", "read-only")


# --- What the operator finds out: a condition and an Event, and the job waits for a remedy. ---


def assert_refused(lab: Lab, name: str, reason: str, *said: str) -> None:
    """Accepted is False for this reason, an Event says so, and nothing is written over and over."""
    condition = lab.wait_for_condition(name, "Accepted", "False", timeout=60)
    assert condition["reason"] == reason, condition
    for words in said:
        assert words in condition["message"], condition["message"]
    lab.wait("Event", lambda: [event for event in lab.events(name) if event[0] == reason], timeout=30)
    assert lab.status(name)["phase"] == "Pending"

    before = lab.job(name)["metadata"]["resourceVersion"]
    time.sleep(8)
    assert lab.job(name)["metadata"]["resourceVersion"] == before
    assert len([event for event in lab.events(name) if event[0] == reason]) == 1
    assert_operator_is_calm(lab)


def test_claim_that_is_not_there_is_waited_for(lab: Lab) -> None:
    lab.apply(finetunejob("waits", merged(ONE_POD, ON_CLAIM)))
    assert_refused(lab, "waits", "ClaimNotFound", "spec.storage.claimName", "mine")
    assert not lab.pods("waits")
    lab.make_claim("mine")
    lab.wait_for_phase("waits", "Succeeded")


def test_claim_for_one_node_is_refused_for_two(lab: Lab) -> None:
    lab.make_claim("mine", mode="ReadWriteOnce")
    lab.apply(finetunejob("shared", ON_CLAIM))
    assert_refused(lab, "shared", "ClaimNotShareable", "ReadWriteMany", "spec.resources.nodes is 2")


@pytest.mark.parametrize(
    "resources",
    [
        pytest.param({"gpusPerNode": 8}, id="no GPU at all"),
        pytest.param({"gpusPerNode": 1, "gpuProducts": ["NVIDIA-H200"]}, id="no GPU of that product"),
    ],
)
def test_gpu_that_no_node_has_is_refused_with_what_there_is(lab: Lab, resources: dict[str, Any]) -> None:
    asked = merged({"nodes": 1, "cpu": None, "memory": None}, resources)
    lab.apply(finetunejob("gpu", {"resources": asked, "training": {"globalBatchSize": None}}))
    assert_refused(lab, "gpu", "NoSuchGPU", "spec.resources", "gpusPerNode: 0 trains on CPU")


def test_image_that_cannot_be_pulled_is_named(lab: Lab) -> None:
    lab.apply(finetunejob("image", merged(ONE_POD, {"image": "localhost/phitune/no-such:1"})))
    condition = lab.wait_for_condition("image", "Accepted", "False")
    assert condition["reason"] == "NoImage"
    assert "localhost/phitune/no-such:1" in condition["message"]
    lab.wait("Event", lambda: [event for event in lab.events("image") if event[0] == "NoImage"])
    assert_operator_is_calm(lab)


def test_quota_that_is_used_up_is_said_and_waited_for(lab: Lab) -> None:
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small"},
            "spec": {"hard": {"requests.memory": "1Gi"}},
        }
    )
    lab.apply(finetunejob("quota", ONE_POD))
    condition = lab.wait_for_condition("quota", "Accepted", "False")
    assert condition["reason"] == "QuotaExceeded"
    assert "small" in condition["message"]
    assert "requests.memory" in condition["message"]
    lab.cluster.kubectl("delete", "resourcequota", "small", "-n", lab.namespace)
    lab.wait_for_phase("quota", "Succeeded")


def test_queue_that_is_not_there_is_refused_by_name(lab: Lab) -> None:
    lab.apply(finetunejob("astray", merged(ONE_POD, {"queueName": "team"})))
    assert_refused(lab, "astray", "QueueNotFound", "spec.queueName")


# --- A config that somebody broke by hand. ---


def break_config(lab: Lab, name: str, text: str, instead: str) -> None:
    """Put another ConfigMap in the place of the one that was made, which nobody can change."""
    made = lab.cluster.get("configmap", f"{name}-config", lab.namespace)
    assert made is not None
    assert text in made["data"]["train.yaml"]
    made["data"]["train.yaml"] = made["data"]["train.yaml"].replace(text, instead)
    lab.cluster.kubectl("delete", "configmap", f"{name}-config", "-n", lab.namespace)
    for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        made["metadata"].pop(field, None)
    lab.cluster.kubectl("create", "-f", "-", stdin=json.dumps(made))


def test_config_broken_by_hand_before_a_start_fails_the_job_at_once(lab: Lab) -> None:
    lab.apply(finetunejob("config", long_enough_to_disturb(ONE_POD)))
    lab.wait_for_step("config", 1)
    lab.suspend("config", True)
    lab.wait_for_condition("config", "Suspended", "True")
    break_config(lab, "config", f"maxSteps: {NUM_STEPS}", "maxSteps: many")

    lab.suspend("config", False)
    status = lab.wait_for_phase("config", "Failed", timeout=60)
    assert "ConfigMap config-config, train.yaml" in status["failure"]["message"]
    assert "training.maxSteps" in status["failure"]["message"]
    assert status["restartsCounted"] == 0
    assert_operator_is_calm(lab)


def test_config_broken_by_hand_under_waiting_pods_ends_them_with_exit_code_2(lab: Lab) -> None:
    if not lab.cluster.is_local:
        pytest.skip("puts a pod onto every node of the cluster for a while")
    lab.apply(finetunejob("config", {"podTemplate": away_from("occupant")}))
    with contextlib.ExitStack() as stack:
        with occupied(lab):
            lab.wait("waiting gang", lambda: len(lab.pods("config", role="trainer")) == 2)
            stack.enter_context(no_installed_operator(lab.cluster))
            # A node that has a pod of it keeps an immutable ConfigMap as it was.
            lab.cluster.kubectl("delete", "pod", *names(prepare_pods(lab)), "-n", lab.namespace)
            break_config(lab, "config", "maxSteps: 4", "maxSteps: many")
        ended = lab.wait("end of a pod", lambda: [pod for pod in lab.pods("config") if exit_code(pod) == 2])
    assert "training.maxSteps" in last_words(ended[0])["message"]

    failure = assert_failed_at_once(lab, "config", "training.maxSteps", "many")
    assert failure["pod"] in names(lab.pods("config"))
    assert lab.status("config")["attempt"] == 1


def prepare_pods(lab: Lab) -> list[Object]:
    return lab.pods("config", role="prepare")


def names(objects: list[Object]) -> list[str]:
    return [found["metadata"]["name"] for found in objects]


def exit_code(pod: Object) -> int | None:
    """Of the pod's only container, if it has ended."""
    for status in pod["status"].get("containerStatuses", []):
        if "terminated" in status["state"]:
            return int(status["state"]["terminated"]["exitCode"])
    return None


@contextlib.contextmanager
def occupied(lab: Lab) -> Iterator[None]:
    """Put an occupant onto every node, and take it away."""
    pods = [
        occupant(f"occupant-{number}", lab.trainer_image, node, label="occupant", requests={"cpu": "10m"})
        for number, node in enumerate(names(lab.cluster.list("nodes", lab.namespace)))
    ]
    lab.apply(*pods)
    yield
    lab.cluster.kubectl("delete", "pod", *names(pods), "-n", lab.namespace, "--grace-period", "1")
