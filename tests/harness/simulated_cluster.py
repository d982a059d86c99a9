"""A cluster in memory: the API server's rules that the operator relies on, and controllers that move at will.

It keeps what the real one keeps: uids and versions, conflicts, names that exist once, owner references, pods
that end on their own time, and watches that tell each kind's changes in order but know nothing of each other.
What moves next is the test's choice, so that it can try every order; a test may also end the operator at any
write.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from harness.simulated_trainer import SimulatedTrainer, owner_reference
from phitune_operator import names
from phitune_operator.backends import is_suspended
from phitune_operator.clock import to_text
from phitune_operator.kinds import (
    FINETUNEJOB,
    GANGS,
    JOB,
    JOBSET,
    NODE,
    POD,
    POD_GROUP,
    PYTORCHJOB,
    TRAINING_RUNTIME,
    TRAINJOB,
    WATCHED,
    Kind,
    Object,
    controllers_of,
    is_terminating,
    kind_of,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError

Place = tuple[Kind, str, str]
Move = tuple[str, Callable[[], None]]
"""A name, and what happens."""
ROOMY: Object = {
    "metadata": {"name": "roomy"},
    "status": {
        "allocatable": {"cpu": "1k", "memory": "9Ti"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
"""The node that has room for all pods on CPU, whatever other nodes they are on."""


class OperatorKilled(BaseException):
    """The operator's process ends here."""


class SimulatedCluster:
    """Takes the place of `Kube`, and of everything behind it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.objects: dict[Place, Object] = {}
        self.told: dict[Kind, list[tuple[Object, bool]]] = defaultdict(list)
        """What the watch of a kind has yet to deliver: an object, and whether it was deleted."""
        self.gangs_made: list[str] = []
        self.num_writes = 0
        self.kill_at: int | None = None
        """Which write, counted from now, the operator does not survive."""
        self._indices: dict[str, set[int]] = {}
        """Of each indexed Job, the indices that had their pod."""
        self._trainer = SimulatedTrainer(self)
        self._uids = itertools.count(1)
        self._versions = itertools.count(1)

    # The API server, as `Kube` shows it.

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return copy.deepcopy(self.objects.get((kind, namespace or "", name)))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        return [copy.deepcopy(obj) for (of_kind, _, _), obj in sorted_items(self.objects) if of_kind == kind]

    async def pages(self, kind: Kind, *, fields: str = "") -> AsyncIterator[Sequence[Object]]:
        yield [ROOMY] if kind == NODE else await self.list(kind)

    async def create(self, kind: Kind, obj: Object) -> Object:
        self._may_be_killed()
        if kind == TRAINJOB:
            self._trainer.admit(obj)
        created = self.put_new(obj)
        if kind in GANGS:
            self.gangs_made.append(name_of(obj))
        return self._answer(created)

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        self._may_be_killed()
        found = self.objects.get((kind, namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f"{kind} {name} not found")
        version = patch.get("metadata", {}).get("resourceVersion")
        if version not in (None, found["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", "the object has been modified")
        if "status" in patch:
            self.change(
                found, lambda obj: obj.update(status=merged(obj.get("status") or {}, patch["status"]))
            )
        return self._answer(found)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, grace: int | None = None
    ) -> None:
        self._may_be_killed()
        found = self.objects.get((kind, namespace, name))
        if found is not None and uid_of(found) == uid:
            self.remove(found)

    async def pod_log(self, namespace: str, name: str, container: str, *, lines: int) -> str:
        return "last line\n"

    def _may_be_killed(self) -> None:
        self.num_writes += 1
        if self.kill_at is not None:
            self.kill_at -= 1
            if self.kill_at < 0:
                raise OperatorKilled

    def _answer(self, obj: Object) -> Object:
        """The operator may be killed after a write, too: it happened, but nobody heard of it."""
        if self.kill_at == 0:
            self.kill_at = None
            raise OperatorKilled
        return copy.deepcopy(obj)

    # What changes objects, whoever asks for it.

    def put_new(self, obj: Object) -> Object:
        kind = kind_of(obj)
        place = (kind, obj["metadata"]["namespace"], name_of(obj))
        if place in self.objects:
            raise ApiError(409, "AlreadyExists", f"{kind} {name_of(obj)} already exists")
        created = copy.deepcopy(obj)
        created["metadata"] |= {
            "uid": f"uid-{next(self._uids)}",
            "resourceVersion": str(next(self._versions)),
            "creationTimestamp": to_text(self.now),
            "generation": 1,
        }
        self.objects[place] = created
        self._tell(created)
        return created

    def change(self, obj: Object, how: Callable[[Object], Any]) -> None:
        how(obj)
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell(obj)

    def edit(self, obj: Object, how: Callable[[Object], Any]) -> None:
        """Somebody changes the spec."""
        obj["metadata"]["generation"] += 1
        self.change(obj, lambda changed: how(changed["spec"]))

    def remove(self, obj: Object) -> None:
        """Delete: a live pod only begins to stop, what is in use stays, anything else is gone."""
        if kind_of(obj) == POD and is_live(obj):
            if not is_terminating(obj):
                later = to_text(self.now + timedelta(seconds=names.TERMINATION_GRACE_SECONDS))
                self.change(obj, lambda pod: pod["metadata"].update(deletionTimestamp=later))
        elif kind_of(obj) == POD_GROUP and self._live_pods_in(obj):
            self.change(obj, lambda group: group["metadata"].update(deletionTimestamp=to_text(self.now)))
        elif kind_of(obj) != TRAINING_RUNTIME or not self._trainer.holds(obj):
            self.forget(obj)

    def forget(self, obj: Object) -> None:
        """An object is gone."""
        del self.objects[kind_of(obj), obj["metadata"]["namespace"], name_of(obj)]
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell(obj, deleted=True)

    def of_kind(self, kind: Kind) -> list[Object]:
        return [obj for place, obj in sorted_items(self.objects) if place[0] == kind]

    def _tell(self, obj: Object, *, deleted: bool = False) -> None:
        if kind_of(obj) in WATCHED:
            self.told[kind_of(obj)].append((copy.deepcopy(obj), deleted))

    # Controllers: what they could do now.

    def moves(self) -> list[Move]:
        """Everything that the cluster itself could do next, one step each."""
        moves: list[Move] = []
        trainjobs = {uid_of(gang) for gang in self.of_kind(TRAINJOB)}
        for job in self.of_kind(JOB):
            moves += self._job_controller(job)
        for gang in self.of_kind(PYTORCHJOB):
            moves += self._kueue(gang) if is_suspended(gang) else self._training_operator(gang)
        for gang in self.of_kind(JOBSET):
            if not is_suspended(gang):
                moves += self._jobset_controller(gang)
            elif controllers_of(gang) & trainjobs:
                moves += self._suspended(gang)
            else:
                moves += self._kueue(gang)
        for gang in self.of_kind(TRAINJOB):
            moves += self._kueue(gang) if is_suspended(gang) else []
        for group in self.of_kind(POD_GROUP):
            if is_terminating(group) and not self._live_pods_in(group):
                moves.append((f"release {name_of(group)}", lambda group=group: self.forget(group)))
        moves += self._trainer.moves()
        for pod in self.of_kind(POD):
            moves += self._kubelet(pod)
        owners = {uid_of(obj) for obj in self.objects.values()}
        for obj in self.objects.values():
            refs = obj["metadata"].get("ownerReferences", [])
            if refs and refs[0]["uid"] not in owners and not is_terminating(obj):
                moves.append((f"collect {name_of(obj)}", lambda obj=obj: self.remove(obj)))
        return moves

    def _job_controller(self, job: Object) -> list[Move]:
        if job["spec"].get("completionMode") == "Indexed":
            return self._indexed_job_controller(job)
        pods = self.pods_of(job)
        if not pods and not job.get("status"):
            return [
                (
                    f"pod of {name_of(job)}",
                    lambda: self._make_pod(job, str(next(self._uids)), job["spec"]["template"]),
                )
            ]
        if not job.get("status") and pods and exit_code(pods[0]) == 0:
            done = {"conditions": [{"type": "Complete", "status": "True"}]}
            return [
                (f"complete {name_of(job)}", lambda: self.change(job, lambda obj: obj.update(status=done)))
            ]
        return []

    def _indexed_job_controller(self, job: Object) -> list[Move]:
        """Each index has one pod, which is never made again: backoffLimitPerIndex is 0."""
        gang = next((one for one in self.of_kind(JOBSET) if uid_of(one) in controllers_of(job)), None)
        if job.get("status") or gang is None or is_suspended(gang):
            return []
        pods, used = self.pods_of(job), self._indices.setdefault(uid_of(job), set())
        count = job["spec"]["completions"]
        if len(used) < count:
            return [
                (f"pod {index}", lambda index=index: self._make_indexed_pod(job, index))
                for index in range(count)
                if index not in used
            ]
        if any(map(is_live, pods)):
            return []
        is_complete = [exit_code(pod) for pod in pods] == [0] * count
        done = {"conditions": [{"type": "Complete" if is_complete else "Failed", "status": "True"}]}
        return [(f"end {name_of(job)}", lambda: self.change(job, lambda obj: obj.update(status=done)))]

    def _make_indexed_pod(self, job: Object, index: int) -> None:
        self._indices[uid_of(job)].add(index)
        template = copy.deepcopy(job["spec"]["template"])
        template["metadata"]["labels"][names.LABEL_INDEX] = str(index)
        self._make_pod(job, f"{index}-{next(self._uids)}", template)

    def _jobset_controller(self, gang: Object) -> list[Move]:
        if gang.get("status"):
            return []
        jobs = [job for job in self.of_kind(JOB) if uid_of(gang) in controllers_of(job)]
        if not jobs:
            (replicated,) = gang["spec"]["replicatedJobs"]
            return [(f"job of {name_of(gang)}", lambda: self._make_job(gang, replicated))]
        told = (jobs[0].get("status") or {}).get("conditions")
        if not told:
            return []
        kind = "Completed" if told[0]["type"] == "Complete" else "Failed"
        done = {"conditions": [{"type": kind, "status": "True", "message": f"{name_of(gang)}: {kind}"}]}
        return [(f"{kind} {name_of(gang)}", lambda: self.change(gang, lambda obj: obj.update(status=done)))]

    def _make_job(self, gang: Object, replicated: Object) -> None:
        template = copy.deepcopy(replicated["template"])
        metadata = {
            **template["metadata"],
            "name": f"{name_of(gang)}-{replicated['name']}-0",
            "namespace": gang["metadata"]["namespace"],
            "ownerReferences": [owner_reference(gang)],
        }
        self.put_new(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}
        )

    def _kueue(self, gang: Object) -> list[Move]:
        """A gang that is suspended and has no pods may be admitted at any time."""
        if self._live_pods_below(gang):
            return self._suspended(gang) if kind_of(gang) != TRAINJOB else []
        return [(f"admit {name_of(gang)}", lambda: self.suspend(gang, False))]

    def _suspended(self, gang: Object) -> list[Move]:
        """A gang that is suspended loses its pods."""
        return [
            (f"suspend {name_of(pod)}", lambda pod=pod: self.remove(pod))
            for pod in self._live_pods_below(gang)
            if not is_terminating(pod)
        ]

    def _live_pods_in(self, group: Object) -> list[Object]:
        pods = self.live_trainers()
        return [pod for pod in pods if labels_of(pod).get(names.LABEL_POD_GROUP) == name_of(group)]

    def _live_pods_below(self, gang: Object) -> list[Object]:
        owners = {uid_of(gang)}
        for kind in (JOBSET, JOB):
            owners |= {uid_of(obj) for obj in self.of_kind(kind) if owners & controllers_of(obj)}
        return [pod for pod in self.of_kind(POD) if owners & controllers_of(pod) and is_live(pod)]

    def suspend(self, gang: Object, value: bool) -> None:
        """What Kueue does to a gang that it stops, or lets run."""
        for job in self.of_kind(JOB):
            ended = [pod for pod in self.pods_of(job) if exit_code(pod) is not None]
            self._indices[uid_of(job)] = {int(labels_of(pod).get(names.LABEL_INDEX, 0)) for pod in ended}
        policy = gang["spec"]["runPolicy"] if kind_of(gang) == PYTORCHJOB else gang["spec"]
        self.change(gang, lambda _: policy.update(suspend=value))

    def _training_operator(self, gang: Object) -> list[Move]:
        pods = {name_of(pod): pod for pod in self.pods_of(gang)}
        if gang.get("status"):
            return []
        master = pods.get(f"{name_of(gang)}-master-0")
        for kind, pod in (("Failed", any_failed(pods.values())), ("Succeeded", master)):
            if (
                pod is not None
                and exit_code(pod) is not None
                and (exit_code(pod) == 0) == (kind == "Succeeded")
            ):
                done = {
                    "conditions": [{"type": kind, "status": "True", "message": f"{name_of(gang)}: {kind}"}]
                }
                return [
                    (
                        f"{kind} {name_of(gang)}",
                        lambda done=done: self.change(gang, lambda obj: obj.update(status=done)),
                    )
                ]
        moves: list[Move] = []
        for role, replica in gang["spec"]["pytorchReplicaSpecs"].items():
            for index in range(replica["replicas"]):
                suffix = f"{role.lower()}-{index}"
                if f"{name_of(gang)}-{suffix}" not in pods and not self._is_taken(
                    f"{name_of(gang)}-{suffix}"
                ):
                    template = replica["template"]
                    moves.append((f"pod {suffix}", lambda s=suffix, t=template: self._make_pod(gang, s, t)))
        return moves

    def _is_taken(self, name: str) -> bool:
        return any(name_of(pod) == name for pod in self.of_kind(POD))

    def _kubelet(self, pod: Object) -> list[Move]:
        if is_terminating(pod):
            return [(f"stop {name_of(pod)}", lambda: self._stop(pod))]
        if not is_live(pod):
            return []
        if pod["status"]["phase"] == "Pending":
            return [(f"start {name_of(pod)}", lambda: self._start(pod))]
        if labels_of(pod).get(names.LABEL_ROLE) == names.ROLE_PREPARE:
            return [(f"prepared {name_of(pod)}", lambda: self.end(pod, 0))]
        return []

    def _make_pod(self, parent: Object, suffix: str, template: Object) -> None:
        self.put_new(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name_of(parent)}-{suffix}",
                    "namespace": parent["metadata"]["namespace"],
                    "labels": dict(template["metadata"]["labels"]),
                    "ownerReferences": [owner_reference(parent)],
                },
                "spec": copy.deepcopy(template["spec"]),
                "status": {"phase": "Pending"},
            }
        )

    def _start(self, pod: Object) -> None:
        ready = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": ready}
        self.change(pod, lambda obj: obj.update(status=status))

    def end(self, pod: Object, code: int) -> None:
        """A pod's process ends by itself."""
        container = pod["spec"]["containers"][0]["name"]
        state = {"terminated": {"exitCode": code, "finishedAt": to_text(self.now)}}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": container, "state": state}],
        }
        self.change(pod, lambda obj: obj.update(status=status))

    def _stop(self, pod: Object) -> None:
        """The process of a deleted pod has ended; the pod goes."""
        pod["status"] = {"phase": "Failed"}
        self.remove(pod)

    # What tests ask.

    def pods_of(self, parent: Object) -> list[Object]:
        return [
            pod for pod in self.of_kind(POD) if pod["metadata"]["ownerReferences"][0]["uid"] == uid_of(parent)
        ]

    def running_trainers(self) -> list[Object]:
        """Training pods in which processes run and which nobody is stopping."""
        return [
            pod
            for pod in self.live_trainers()
            if pod["status"]["phase"] == "Running" and not is_terminating(pod)
        ]

    def live_trainers(self) -> list[Object]:
        return [
            pod
            for pod in self.of_kind(POD)
            if is_live(pod) and labels_of(pod).get(names.LABEL_ROLE) == names.ROLE_TRAINER
        ]

    def job(self, name: str) -> Object:
        return next(job for job in self.of_kind(FINETUNEJOB) if name_of(job) == name)


def is_live(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Pending", "Running")


def exit_code(pod: Object) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        code: int = container["state"]["terminated"]["exitCode"]
        return code
    return None


def any_failed(pods: Any) -> Object | None:
    return next((pod for pod in pods if exit_code(pod) not in (None, 0)), None)


def sorted_items(objects: dict[Place, Object]) -> list[tuple[Place, Object]]:
    return sorted(objects.items(), key=lambda item: (item[0][0].plural, *item[0][1:]))


def merged(base: Object, patch: Object) -> Object:
    """A merge patch, as the API server applies it."""
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            known = result.get(name)
            result[name] = merged(known if isinstance(known, dict) else {}, value)
        else:
            result[name] = value
    return result
