"""What is said while pods wait or fetch, and how long a gang may wait for an image that cannot be had."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from harness.jobs import finetunejob
from harness.operator_view import NOON, PREPARED, condition, gang, observed, pod, subject
from harness.simulated_cluster import SimulatedCluster
from phitune_operator.capacity import Capacity, Reading
from phitune_operator.kinds import (
    EVENT,
    JOB,
    JOBSET,
    POD,
    PYTORCHJOB,
    TRAINJOB,
    WATCHED,
    Key,
    Kind,
    Object,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError
from phitune_operator.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_JOB_UID
from phitune_operator.observe import Observer
from phitune_operator.observed import Delete, Observed, Plan, Settings
from phitune_operator.plan import plan
from phitune_operator.pods import view
from phitune_operator.policies import prepare
from phitune_operator.policies.image_pull import GRACE
from phitune_operator.progress import ProgressPoller
from phitune_operator.render.config_map import config_map
from phitune_operator.render.gang import with_needs
from phitune_operator.render.volume import claim
from phitune_operator.store import Store

KEY = Key("team", "digits")
STUCK = replace(pod(1, phase="Pending"), is_ready=False, bad_image="trainer:nope")


def looked_at(cluster: SimulatedCluster, store: Store) -> Observed:
    """What the operator sees of the job once the watches have told all that there is."""
    for kind in WATCHED:
        for obj in cluster.of_kind(kind):
            store.absorb(kind, obj)
    unused: Any = None
    observer = Observer(cluster, store, ProgressPoller(unused), Settings(trainer_image="i"))  # type: ignore[arg-type]
    seen = asyncio.run(observer.observe(KEY, now=NOON))
    assert seen is not None
    return seen


def waiting(*, for_so_long: timedelta, reason: str = "NoImage") -> Observed:
    """A gang one of whose pods cannot have its image, and when the job was told of that."""
    status = copy.deepcopy(PREPARED)
    told = {"type": "Accepted", "status": "False", "reason": reason, "message": ""}
    status["conditions"].append({**told, "lastTransitionTime": (NOON - for_so_long).isoformat()})
    known: Any = {"claim": claim(subject()), "config_map": config_map(subject()), "gangs": (gang(),)}
    return observed(status=status, pods=(pod(0), STUCK), **known)


def taken_back(todo: Plan) -> bool:
    return [action.kind for action in todo.actions if isinstance(action, Delete)] == [PYTORCHJOB]


def test_gang_whose_image_cannot_be_had_gives_its_nodes_back_and_is_tried_again() -> None:
    todo = plan(waiting(for_so_long=GRACE))
    assert taken_back(todo)
    failure = todo.status["failure"]
    assert (failure["reason"], failure["pod"], failure["node"]) == (
        "ImageNotPulled",
        "digits-1-worker-0",
        "node-1",
    )
    assert "trainer:nope" in failure["message"]
    assert "spec.imagePullSecrets" in failure["remedy"]
    assert "restartsCounted" not in todo.status
    assert "ImageNotPulled" in [event.reason for event in todo.announcements]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(waiting(for_so_long=GRACE - timedelta(seconds=1)), id="not for so long"),
        pytest.param(waiting(for_so_long=GRACE, reason="QuotaExceeded"), id="told of something else"),
        pytest.param(
            replace(
                waiting(for_so_long=2 * GRACE),
                pods=(pod(0), replace(STUCK, scheduled_at=NOON - timedelta(minutes=1))),
            ),
            id="has its node but for a minute",
        ),
        pytest.param(
            replace(waiting(for_so_long=GRACE), pods=(pod(0), replace(STUCK, bad_image=""))), id="is pulled"
        ),
    ],
)
def test_gang_that_may_yet_have_its_image_keeps_its_nodes(seen: Observed) -> None:
    assert not taken_back(plan(seen))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "model and data are being fetched or checked"),
        (("prepare: model: 3.1 GB of 8.3 GB (37%), 120.0 MB/s, 43s left",), "model: 3.1 GB of 8.3 GB (37%)"),
    ],
    ids=["nothing told", "told"],
)
def test_condition_says_how_far_prepare_is(lines: tuple[str, ...], message: str) -> None:
    fetching = replace(pod(0), attempt=None, log_tail=lines)
    reason, said = prepare.how_far_it_is([fetching])
    assert (reason, said.startswith(message)) == ("Preparing", True)
    no_node = replace(fetching, unschedulable="0/2 nodes are available")
    assert prepare.how_far_it_is([no_node]) == ("Unschedulable", "0/2 nodes are available")


@pytest.mark.parametrize(("phase", "num_reads"), [("Running", 0), ("Failed", 1)])
def test_nodes_are_not_read_while_pods_of_the_last_gang_hold_them(
    monkeypatch: pytest.MonkeyPatch, phase: str, num_reads: int
) -> None:
    """What is read is used again for seconds: the next gang would be told that there is no room for it."""
    cluster, store, read = SimulatedCluster(), Store(), list[Capacity]()

    async def nodes(capacity: Capacity) -> Reading:
        read.append(capacity)
        return Reading((), 0.0)

    monkeypatch.setattr(Capacity, "nodes", nodes)
    job = {**finetunejob("digits", {"resources": {"gpusPerNode": 1}}), "status": copy.deepcopy(PREPARED)}
    job["metadata"]["namespace"] = "team"
    cluster.put_new(job)
    owner = {"kind": PYTORCHJOB.kind, "name": "digits-1", "controller": True, "uid": "gone"}
    labels = {LABEL_JOB: "digits", LABEL_JOB_UID: uid_of(cluster.job("digits")), LABEL_ATTEMPT: "1"}
    metadata = {"name": "p", "namespace": "team", "labels": labels}
    left = {
        "apiVersion": "v1",
        "kind": POD.kind,
        "metadata": {**metadata, "ownerReferences": [{"apiVersion": PYTORCHJOB.api_version, **owner}]},
        "status": {"phase": phase},
    }
    cluster.put_new(left)
    seen = looked_at(cluster, store)
    assert [pod.phase for pod in seen.gang_pods] == [phase]
    assert len(read) == num_reads


class Kubelet(SimulatedCluster):
    """A cluster whose prepare pod has logged a line, if the kubelet answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.answers = True

    async def pod_log(self, namespace: str, name: str, container: str, *, lines: int) -> str:
        self.asked += 1
        if not self.answers:
            raise ApiError(0, "Unreachable", "no answer")
        return "prepare: model: 3.1 GB of 8.3 GB (37%)\n"


def test_log_of_prepare_is_read_once_it_takes_long_and_nothing_depends_on_it() -> None:
    cluster, store = Kubelet(), Store()
    job = finetunejob("digits")
    job["metadata"]["namespace"] = "team"
    cluster.put_new(job)
    unused: Any = None
    observer = Observer(cluster, store, ProgressPoller(unused), Settings(trainer_image="i"))  # type: ignore[arg-type]

    def ready(obj: Object) -> None:
        since = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
        obj["status"] = {"phase": "Running", "conditions": [since]}

    async def message(*, after: float) -> str:
        for kind in WATCHED:
            for obj in cluster.of_kind(kind):
                store.absorb(kind, obj)
        seen = await observer.observe(KEY, now=NOON + timedelta(seconds=after))
        assert seen is not None
        todo = plan(seen)
        for action in todo.actions:
            if not isinstance(action, Delete):
                cluster.put_new(action.body)
        cluster.change(cluster.job("digits"), lambda obj: obj.update(status=todo.status))
        text: str = condition(todo.status, "Prepared")["message"]
        return text

    async def run() -> None:
        await message(after=0)
        (prepare_job,) = [obj for obj in cluster.of_kind(JOB) if name_of(obj) == "digits-prepare"]
        next(move for name, move in cluster.moves() if name == f"pod of {name_of(prepare_job)}")()
        (fetching,) = cluster.of_kind(POD)
        cluster.change(fetching, ready)
        assert await message(after=9) == "model and data are being fetched or checked"
        assert cluster.asked == 0, "what is done in seconds is not asked about"
        assert await message(after=10) == "model: 3.1 GB of 8.3 GB (37%)"
        cluster.answers = False
        assert await message(after=20) == "model and data are being fetched or checked"

    asyncio.run(run())


class Controllers(SimulatedCluster):
    """A cluster whose Events are found by what they are about."""

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        found = await super().list(kind, namespace, labels=labels, fields=fields)
        if kind != EVENT:
            return found
        return [one for one in found if f"involvedObject.uid={one['involvedObject']['uid']}," in fields]


@pytest.mark.parametrize(
    ("backend", "teller", "reason"),
    [
        (PYTORCHJOB, PYTORCHJOB, "FailedCreatePod"),
        (JOBSET, JOBSET, "JobCreationFailed"),
        (JOBSET, JOB, "FailedCreate"),
        (TRAINJOB, TRAINJOB, "TrainJobResourcesCreationFailed"),
        (TRAINJOB, JOBSET, "JobCreationFailed"),
        (TRAINJOB, JOB, "FailedCreate"),
    ],
    ids=str,
)
def test_whoever_was_to_make_the_pods_is_heard_when_they_are_refused(
    backend: Kind, teller: Kind, reason: str
) -> None:
    cluster, store = Controllers(), Store()
    placement = PREPARED["placement"] | {"backend": backend.kind}
    job = {**finetunejob("digits"), "status": PREPARED | {"placement": placement}}
    job["metadata"]["namespace"] = "team"
    cluster.put_new(job)
    uid = uid_of(cluster.job("digits"))
    for made in with_needs(replace(subject(), uid=uid, backend=backend.kind), 1):
        cluster.put_new(made)
    for move in ("hear of digits-1", "jobset of digits-1", "job of digits-1"):
        if happens := dict(cluster.moves()).get(move):
            happens()
    (told_of,) = [one for one in cluster.of_kind(teller) if "prepare" not in name_of(one)]
    cluster.put_new(
        {
            "apiVersion": "v1",
            "kind": EVENT.kind,
            "metadata": {"name": "told", "namespace": "team"},
            "involvedObject": {"uid": uid_of(told_of)},
            "reason": reason,
            "message": "is forbidden: exceeded quota: small",
        }
    )
    seen = looked_at(cluster, store)
    assert seen.refusal is not None
    assert seen.refusal.reason == "QuotaExceeded"


def test_of_an_init_containers_image_it_is_not_said_that_the_job_could_change_it() -> None:
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
    inits = [{"name": "init-pytorch", "image": "alpine:3.10", **pulling}]
    worker = {"metadata": {"name": "digits-1-worker-0", "uid": "w"}, "spec": {}}
    stuck = view({**worker, "status": {"phase": "Pending", "initContainerStatuses": inits}})
    todo = plan(replace(waiting(for_so_long=timedelta()), pods=(pod(0), replace(stuck, attempt=1))))
    accepted = condition(todo.status, "Accepted")
    assert accepted["reason"] == "NoImage"
    assert "alpine:3.10 of the init container init-pytorch" in accepted["message"]
    assert "--pytorch-init-container-image" in accepted["message"]
    assert "spec.image" not in accepted["message"]
