"""Faults that strike one job: each begins a job, strikes it, and judges what came of it."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from chaos.liar import Liar
from chaos.webhook import Webhook
from harness.cluster import CommandError, Object
from harness.kill import kill_container
from harness.oracle import Verdict
from harness.trial import NUM_STEPS, Trial
from phitune_operator.kinds import name_of, uid_of

EAT_MEMORY = """
with open("/dev/shm/eaten", "wb") as file:
    while True:
        file.write(b"x" * 2**20)
"""
"""Fills shared memory, which counts against the pod's limit and belongs to no process: a rank dies for it."""
GARBLE_LAST_WORDS = """
open("/dev/termination-log", "wb").write(b'{"exitCode": "\\xff\\x00", ' + b"[" * 3000)
"""
NUM_EVENTS = 10_000


def worker_killed(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kill_worker()
    return trial.verdict()


def master_killed(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    kill_container(trial.lab, trial.master)
    return trial.verdict()


def every_pod_killed(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kill_gang()
    return trial.verdict()


def out_of_memory(trial: Trial) -> Verdict:
    trial.begin({"resources": {"memory": "1Gi", "sharedMemory": "900Mi"}})
    trial.until_saved()
    with suppress(CommandError):  # It ends with the container.
        trial.lab.exec_python(name_of(trial.worker), EAT_MEMORY)
    trial.until_attempt(2)
    assert trial.status["failure"]["reason"] == "OutOfMemory", trial.status["failure"]
    return trial.verdict()


def evicted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    namespace, name = trial.lab.namespace, name_of(trial.worker)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    trial.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    verdict = trial.verdict()
    is_counted = trial.status["restartsCounted"] != 0
    return verdict.and_lost("an eviction was counted as a fault of the job") if is_counted else verdict


def pod_deleted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("delete", "pod", name_of(trial.worker), "--wait=false")
    return trial.verdict()


def pod_edited(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("label", "pod", name_of(trial.worker), "phitune.dev/job-", "phitune.dev/attempt-")
    return trial.verdict()


def gang_deleted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("delete", "pytorchjob", f"{trial.name}-1", "--wait=false")
    return trial.verdict()


def gang_edited(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    suspend = json.dumps({"spec": {"runPolicy": {"suspend": True}}})
    trial.kubectl("patch", "pytorchjob", f"{trial.name}-1", "--type", "merge", "--patch", suspend)
    return trial.verdict()


def config_deleted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("delete", "configmap", f"{trial.name}-config")
    trial.kill_worker()
    return trial.verdict()


def config_edited(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    config, other = f"{trial.name}-config", json.dumps({"data": {"train.yaml": ""}})
    with suppress(CommandError):
        trial.kubectl("patch", "configmap", config, "--type", "merge", "--patch", other)
        raise AssertionError("the config of a job could be changed")
    trial.kubectl("label", "configmap", config, "phitune.dev/job-")
    trial.kill_worker()
    return trial.verdict()


def service_deleted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("delete", "service", f"{trial.name}-1-master-0")
    trial.kill_worker()
    return trial.verdict()


def service_edited(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    elsewhere = json.dumps({"spec": {"selector": {"app": "somebody-else"}}})
    trial.kubectl("patch", "service", f"{trial.name}-1-master-0", "--type", "merge", "--patch", elsewhere)
    trial.kill_worker()
    return trial.verdict()


def claim_deleted(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.kubectl("delete", "pvc", f"{trial.name}-workspace", "--wait=false")
    return trial.verdict(keeps_volume=False)


def job_made_anew(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    old = uid_of(trial.job)
    trial.kubectl("delete", "finetunejob", trial.name, "--wait=false")
    trial.begin()
    trial.until("new job", lambda: uid_of(trial.job) != old if trial.job else None)
    return trial.verdict()


def quota_used_up(trial: Trial) -> Verdict:
    trial.lab.apply(_quota(pods=1))
    trial.begin()
    trial.until_refused("QuotaExceeded")
    trial.lab.apply(_quota(pods=4))
    return trial.verdict()


def _quota(*, pods: int) -> Object:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    return {**quota, "spec": {"hard": {"pods": str(pods)}}}


def webhook_refuses(trial: Trial) -> Verdict:
    with Webhook(trial.lab.cluster, trial.lab.namespace) as webhook:
        trial.begin()
        trial.until_refused("ObjectRefused")
        assert webhook.num_asked > 0
    return trial.verdict()


def webhook_hangs(trial: Trial) -> Verdict:
    with Webhook(trial.lab.cluster, trial.lab.namespace, hangs=True) as webhook:
        trial.begin()
        trial.until("question to the webhook", lambda: webhook.num_asked > 1 or None)
    return trial.verdict()


def progress_hangs(trial: Trial) -> Verdict:
    return _lied_to(trial, "hang")


def progress_lies(trial: Trial) -> Verdict:
    return _lied_to(trial, "lie")


def progress_floods(trial: Trial) -> Verdict:
    return _lied_to(trial, "flood")


def _lied_to(trial: Trial, how: str) -> Verdict:
    num_steps = 5 * NUM_STEPS  # the next question comes ten seconds later, or more
    trial.begin({"training": {"maxSteps": num_steps}})
    trial.until_running()
    with Liar(trial.master, how) as liar:
        verdict = trial.verdict()
    assert liar.num_asked > 0, "nobody asked it"
    if trial.status["attempt"] != 1:
        verdict = verdict.and_lost("work was thrown away for what an endpoint said")
    if trial.status["progress"]["step"] != num_steps:
        verdict = verdict.and_lost("a lie stands in status, and not the last words")
    return verdict


def many_events(trial: Trial) -> Verdict:
    """Of a gang whose pods are refused: the operator reads its Events at each look, to say why."""
    trial.lab.apply(_quota(pods=1))
    trial.begin()
    trial.until_refused("QuotaExceeded")
    gang = trial.gang
    involved = {
        "kind": gang["kind"],
        "apiVersion": gang["apiVersion"],
        "name": name_of(gang),
        "uid": uid_of(gang),
        "namespace": trial.lab.namespace,
    }
    api, where = trial.lab.cluster.api, f"/api/v1/namespaces/{trial.lab.namespace}/events"

    def post(number: int) -> None:
        event = {
            "metadata": {"name": f"noise-{number}", "namespace": trial.lab.namespace},
            "involvedObject": involved,
            "type": "Warning",
            "reason": "FailedCreatePod",
            "message": f"noise {secrets.token_hex(20)}",
        }
        answer = api.rest_client.pool_manager.request(
            "POST", f"{api.configuration.host}{where}", json=event, timeout=60
        )
        assert answer.status == 201, answer.data

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(post, range(NUM_EVENTS)))
    trial.lab.apply(_quota(pods=4))
    return trial.verdict()


def two_jobs_on_one_claim(trial: Trial) -> list[Verdict]:
    trial.lab.make_claim("shared")
    trials = [Trial(trial.lab, trial.recorder, name) for name in ("first", "second")]
    for one in trials:
        one.begin({"storage": {"claimName": "shared", "size": None}})
    trials[0].until_saved()
    trials[0].kill_worker()
    return [one.verdict() for one in trials]


def volume_full(trial: Trial) -> Verdict:
    limit = {"local.phitune.dev/size-limit": "300Mi"}
    trial.lab.make_claim("small", **limit)
    trial.begin({"storage": {"claimName": "small", "size": None}})
    trial.until_saved()
    filler = trial.volume() / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 2**20)
    saved = trial.saved_step()
    trial.until_failure("VolumeFull")
    filler.unlink()
    # Training goes on meanwhile, and what it does then cannot be saved.
    verdict = trial.verdict(may_lose=NUM_STEPS)
    resumed = trial.starts()[1]["start"]["from"]["step"]
    return verdict if resumed >= saved else verdict.and_lost(f"{saved} was saved, and {resumed} taken up")


def volume_read_only(trial: Trial) -> Verdict:
    limit = {"local.phitune.dev/size-limit": "300Mi"}
    trial.lab.make_claim("broken", **limit)
    trial.begin({"storage": {"claimName": "broken", "size": None}})
    trial.until_saved()
    read_only = "local.phitune.dev/read-only"
    # The kernel refuses that while a file is open for writing: it is so from the end of the first gang on.
    trial.kubectl("annotate", "pvc", "broken", f"{read_only}=true")
    trial.kubectl("delete", "pod", name_of(trial.worker), "--wait=false")
    trial.until_failure("VolumeReadOnly")
    trial.kubectl("annotate", "pvc", "broken", f"{read_only}-")
    return trial.verdict()


def last_words_garbled(trial: Trial) -> Verdict:
    trial.begin()
    trial.until_saved()
    trial.lab.exec_python(name_of(trial.master), GARBLE_LAST_WORDS)
    trial.lab.exec_python(name_of(trial.worker), GARBLE_LAST_WORDS)
    trial.kill_gang()
    return trial.verdict()
