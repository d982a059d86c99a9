"""A job stopped and continued by its user, and jobs that are deleted, by somebody or as their policy says."""

from __future__ import annotations

import json

import pytest

from harness.incarnations import incarnations
from harness.jobs import NUM_STEPS, finetunejob, long_enough_to_disturb, merged
from harness.lab import Lab

pytestmark = pytest.mark.timeout(600)

MODELS = "import pathlib; print(len(list(pathlib.Path('/workspace/models/init-tiny').iterdir())))"
RUNS = "import pathlib; print(len(list(pathlib.Path('/workspace/runs').glob('*/again/*'))))"
OWNED = "finetunejobs,pytorchjobs,jobs,configmaps,pods,persistentvolumeclaims"


def left_of(lab: Lab, name: str) -> dict[str, str]:
    """Kind and uid of everything in the namespace that is labelled with the job."""
    text = lab.cluster.kubectl(
        "get", OWNED, "-n", lab.namespace, "-l", f"phitune.dev/job={name}", "-o", "json"
    )
    return {found["kind"]: found["metadata"]["uid"] for found in json.loads(text)["items"]}


def test_deleted_job_leaves_its_volume_for_the_next_of_its_name(lab: Lab) -> None:
    lab.apply(finetunejob("again"))
    first = lab.wait_for_phase("again", "Succeeded")["artifacts"]["run"]
    claim = left_of(lab, "again")["PersistentVolumeClaim"]

    lab.delete("again")
    left = lab.wait("end of all but the volume", lambda: only_claim(lab, "again"))
    assert left == {"PersistentVolumeClaim": claim}

    lab.apply(finetunejob("again", {"resumeFrom": first}))
    second = lab.wait_for_phase("again", "Succeeded")["artifacts"]["run"]
    assert second != first
    assert left_of(lab, "again")["PersistentVolumeClaim"] == claim, "the volume is taken up again"
    assert lab.on_claim("again-workspace", RUNS).strip() == "2", "and holds the results of both"


def only_claim(lab: Lab, name: str) -> dict[str, str] | None:
    left = left_of(lab, name)
    return left if set(left) == {"PersistentVolumeClaim"} else None


def test_deleted_running_job_takes_its_pods_along(lab: Lab) -> None:
    lab.apply(finetunejob("short", long_enough_to_disturb({"storage": {"retain": False}})))
    lab.wait_for_step("short", 1)
    lab.delete("short")
    assert lab.wait("end of everything, volume included", lambda: not left_of(lab, "short"))


def test_suspended_job_goes_on_where_it_stopped(lab: Lab) -> None:
    lab.apply(finetunejob("paused", long_enough_to_disturb({"checkpoint": {"everySteps": 1000}})))
    lab.wait_for_step("paused", 3)

    lab.suspend("paused", True)
    lab.wait_for_condition("paused", "Suspended", "True")
    lab.wait("end of its pods", lambda: not running_pods(lab, "paused"), timeout=30)
    saved = lab.status("paused")["lastCheckpoint"]["step"]
    assert saved >= 3, "saved on the way out, though no checkpoint was due"

    lab.suspend("paused", False)
    status = lab.wait_for_phase("paused", "Succeeded")
    assert status.get("restartsCounted", 0) == 0
    assert status["progress"]["step"] == NUM_STEPS
    before, after = incarnations(lab, "paused")
    assert before["last"] == saved
    assert after["start"]["from"] == {"incarnation": 1, "step": saved}


def running_pods(lab: Lab, name: str) -> list[str]:
    pods = lab.pods(name, role="trainer")
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]


ONE_POD = {"resources": {"nodes": 1}}
ON_CLAIM = {"storage": {"size": None, "claimName": "shared"}}


def test_jobs_that_prepare_one_volume_at_once_end_as_their_policies_say(lab: Lab) -> None:
    """Beside them a third one trains on a volume that is made where its first pod is."""
    lab.make_claim("shared")
    brief = merged(merged(ONE_POD, ON_CLAIM), {"runPolicy": {"ttlAfterFinished": "1s"}})
    late = merged(merged(ONE_POD, ON_CLAIM), {"runPolicy": {"activeDeadline": "15s"}})
    jobs = [finetunejob("brief", brief), finetunejob("late", long_enough_to_disturb(late))]
    if lab.cluster.is_local:
        bound_late = {"storage": {"storageClassName": "local-rwo"}}
        jobs.append(finetunejob("placed", merged(ONE_POD, bound_late)))
    lab.apply(*jobs)

    failed = lab.wait_for_phase("late", "Failed")
    (condition,) = [one for one in failed["conditions"] if one["type"] == "Failed"]
    assert condition["reason"] == "DeadlineExceeded"
    lab.wait("end of its pods", lambda: not running_pods(lab, "late"))
    lab.wait("end of the job", lambda: lab.cluster.get("ftj", "brief", lab.namespace) is None)
    assert "Succeeded" in dict(lab.events("brief"))
    lab.wait("end of its children", lambda: not left_of(lab, "brief"))
    assert lab.on_claim("shared", MODELS).strip() == "1", "one model for both, and nothing half made"

    if lab.cluster.is_local:
        lab.wait_for_phase("placed", "Succeeded")
        (trainer,) = lab.pods("placed", role="trainer")
        (fetcher,) = lab.pods("placed", role="prepare")
        claim = lab.cluster.get("pvc", "placed-workspace", lab.namespace)
        assert claim is not None
        chosen = claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
        assert {trainer["spec"]["nodeName"], fetcher["spec"]["nodeName"]} == {chosen}
