"""What is killed comes back, and nothing is trained twice or lost but the steps since the last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.cluster import OPERATOR_NAMESPACE, Object
from harness.incarnations import incarnations
from harness.installed import other_trainer_image
from harness.jobs import NUM_STEPS, finetunejob, long_enough_to_disturb
from harness.kill import hang_a_rank, kill_a_rank, kill_container
from harness.lab import Lab, last_words
from harness.oracle import BEHIND

pytestmark = pytest.mark.timeout(600)

SAVE_INTERVAL = 5


def worker(lab: Lab, name: str) -> Object:
    (pod,) = [
        pod for pod in lab.pods(name, role="trainer", attempt=1) if "-worker-" in pod["metadata"]["name"]
    ]
    return pod


def by_rank(lab: Lab, pod: Object) -> None:
    kill_a_rank(lab, pod["metadata"]["name"])


@pytest.mark.parametrize(
    "kill",
    [pytest.param(by_rank, id="a training process"), pytest.param(kill_container, id="the whole container")],
)
def test_killed_worker_brings_the_whole_gang_back(lab: Lab, kill: Callable[[Lab, Object], None]) -> None:
    lab.apply(finetunejob("killed", long_enough_to_disturb()))
    lab.wait_for_checkpoint("killed")
    first = {pod["metadata"]["uid"] for pod in lab.pods("killed", role="trainer", attempt=1)}

    kill(lab, worker(lab, "killed"))
    status = lab.wait_for_phase("killed", "Succeeded", timeout=300)

    assert status["attempt"] == 2
    assert status["restarts"] == 1
    assert status["progress"]["step"] == NUM_STEPS
    second = lab.pods("killed", role="trainer", attempt=2)
    assert len(second) == 2, "master and worker, not the worker alone"
    assert first.isdisjoint(pod["metadata"]["uid"] for pod in second)
    proofs = [proof for pod in second for proof in last_words(pod)["ranks"]]
    assert len({proof["parametersHash"] for proof in proofs}) == 1

    before, after = incarnations(lab, "killed")
    resumed_at = after["start"]["from"]["step"]
    assert resumed_at > 0
    assert before["last"] - resumed_at <= SAVE_INTERVAL + BEHIND, (
        "no more is lost than one interval before the last complete save"
    )
    assert {proof["steps"] for proof in proofs} == {NUM_STEPS - resumed_at}, (
        "no step is trained twice by the same gang"
    )


def test_gang_that_hangs_is_restarted_and_goes_on_from_its_checkpoint(lab: Lab) -> None:
    lab.apply(finetunejob("hanging", long_enough_to_disturb({"runPolicy": {"stallTimeout": "20s"}})))
    lab.wait_for_checkpoint("hanging")

    hang_a_rank(lab, worker(lab, "hanging")["metadata"]["name"])
    status = lab.wait_for_phase("hanging", "Succeeded", timeout=420)

    assert (status["attempt"], status["restarts"], status["progress"]["step"]) == (2, 1, NUM_STEPS)
    told = dict(lab.events("hanging"))["Stalled"]
    assert "no sign of life for" in told
    assert "stallTimeout is 20s" in told
    before, after = incarnations(lab, "hanging")
    assert before["last"] - after["start"]["from"]["step"] <= SAVE_INTERVAL + BEHIND


def kill_operator(lab: Lab) -> None:
    (pod,) = lab.cluster.list("pods", OPERATOR_NAMESPACE, "app.kubernetes.io/name=phitune-operator")
    kill_container(lab, pod)


def assert_made_once(lab: Lab, name: str) -> None:
    assert lab.gangs(name) == [f"{name}-1"]
    assert len(lab.pods(name, role="trainer")) == 2
    assert len(lab.pods(name, role="prepare")) == 1
    selector = f"phitune.dev/job={name}"
    for kind in ("jobs", "configmaps", "persistentvolumeclaims"):
        assert len(lab.cluster.list(kind, lab.namespace, selector)) == 1, kind


@pytest.mark.parametrize("delay", [0.0, 2.0], ids=["at once", "two seconds after"])
def test_operator_killed_while_a_job_starts_doubles_nothing(lab: Lab, delay: float) -> None:
    lab.apply(finetunejob("starting"))
    time.sleep(delay)
    kill_operator(lab)
    status = lab.wait_for_phase("starting", "Succeeded", timeout=300)
    assert (status["attempt"], status["restarts"]) == (1, 0)
    assert_made_once(lab, "starting")


def test_operator_killed_and_upgraded_while_a_job_trains_touches_no_pod(lab: Lab) -> None:
    """And a restart after that runs the image of the first attempt, not that of the new version."""
    lab.apply(finetunejob("training", long_enough_to_disturb({"training": {"maxSteps": 5000}})))
    step = lab.wait_for_step("training", 1)
    before = lab.status("training")
    uids = {pod["metadata"]["uid"] for pod in lab.pods("training", role="trainer")}

    kill_operator(lab)
    with other_trainer_image(lab.cluster, "localhost/phitune/trainer-of-a-later-version:1"):
        lab.wait_for_step("training", step + 1)
        status = lab.status("training")
        assert (status["attempt"], status["restarts"]) == (1, 0)
        assert status["startTime"] == before["startTime"]
        assert {pod["metadata"]["uid"] for pod in lab.pods("training", role="trainer")} == uids
        assert_made_once(lab, "training")

        by_rank(lab, worker(lab, "training"))
        lab.wait("second attempt", lambda: len(lab.pods("training", role="trainer", attempt=2)) == 2)
        lab.wait_for_step("training", 1, attempt=2)

    status, second = lab.status("training"), lab.pods("training", role="trainer", attempt=2)
    assert status["placement"]["image"] == lab.trainer_image
    assert {pod["spec"]["containers"][0]["image"] for pod in second} == {lab.trainer_image}
    assert status["failure"]["attempt"] == 1
    assert status["failure"]["remedy"]
