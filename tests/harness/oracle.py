"""Whether a job that something struck was served as promised: one judgement for every fault, and pure.

Promised is that no job is lost, none doubled, nothing left over, no phase that does not move, and that
training loses at most one save interval. What is judged is a record of what the watches told, what was left
in the namespace at the end, and what the run's folder on the volume tells of its starts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from harness.cluster import Object
from harness.history import Sight, phases
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, NODE, POD, PYTORCHJOB, labels_of, name_of, uid_of

ENDS = ("Succeeded", "Failed")
ONE_EACH = ("PersistentVolumeClaim", "ConfigMap", "Job", "PyTorchJob")
"""Kinds of which a job has at most one object when it is done."""
BEHIND = 2
"""Steps that may be trained while a checkpoint is being written: it counts from when it is complete."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was not as promised, in sentences; all empty if everything was."""

    lost: tuple[str, ...] = ()
    """The job did not come to its end, or lost more training than it may."""
    doubled: tuple[str, ...] = ()
    """Two gangs lived at once, or an attempt had two."""
    orphans: tuple[str, ...] = ()
    """Objects without an owner, or left over."""
    stuck: tuple[str, ...] = ()
    """Nothing moved for longer than there was a reason for."""

    def and_lost(self, complaint: str) -> Verdict:
        """The same, and one thing more that this fault in particular should not have cost."""
        return replace(self, lost=(*self.lost, complaint))

    @property
    def complaints(self) -> tuple[str, ...]:
        """All of it."""
        return (*self.lost, *self.doubled, *self.orphans, *self.stuck)


def judge(
    sights: Sequence[Sight],
    *,
    left: Sequence[Object],
    starts: Sequence[Mapping[str, Any]] | None,
    save_interval: int,
    patience: float,
) -> Verdict:
    """Judge one job.

    Args:
        sights: What was told of the job, its children and the nodes.
        left: The job and everything labelled with it, some seconds after its end.
        starts: Of each start of the run, in order: `start` (its start.json) and `last`, the last step it did;
            None where the fault took the volume away.
        save_interval: Optimizer steps between two checkpoints.
        patience: Seconds for which phase, attempt and step may stay as they are.
    """
    return Verdict(
        lost=(*not_ended(sights), *([] if starts is None else training_lost(starts, save_interval))),
        doubled=(*gangs_made_twice(sights), *gangs_at_once(sights)),
        orphans=tuple(left_over(left)),
        stuck=tuple(standstills(sights, patience)),
    )


def not_ended(sights: Sequence[Sight]) -> list[str]:
    """Complain if the last word about the job is not that it has succeeded."""
    last = next((sight for sight in reversed(sights) if sight.kind == FINETUNEJOB), None)
    if last is None:
        return ["the job was never seen"]
    if last.deleted:
        return ["the job is gone"]
    if phase_of(last.obj) == "Succeeded":
        return []
    failure = (last.obj.get("status") or {}).get("failure") or {}
    way = ", ".join(phases(sights))
    return [
        f"the job is not Succeeded; it was {way}; {failure.get('reason', '')} {failure.get('message', '')}"
    ]


def training_lost(starts: Sequence[Mapping[str, Any]], save_interval: int) -> list[str]:
    """Complain of each start that goes on more than one interval behind what the one before it had done."""
    complaints = [] if starts else ["no start of the run is on the volume"]
    for before, after in pairwise(starts):
        resumed = (after["start"].get("from") or {}).get("step", 0)
        if before["last"] - resumed > save_interval + BEHIND:
            complaints.append(
                f"a start had done step {before['last']}, and the next went on from {resumed}; "
                f"checkpoints are {save_interval} steps apart, and are written during {BEHIND} more at most"
            )
    return complaints


def gangs_made_twice(sights: Iterable[Sight]) -> list[str]:
    """Complain of an attempt that had more than one PyTorchJob."""
    uids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for sight in sights:
        if sight.kind == PYTORCHJOB:
            job = labels_of(sight.obj).get(names.LABEL_JOB_UID, "")
            uids[job, name_of(sight.obj)].add(uid_of(sight.obj))
    return [f"{name} was made {len(made)} times" for (_, name), made in uids.items() if len(made) > 1]


def gangs_at_once(sights: Iterable[Sight]) -> list[str]:
    """Complain of pods of two attempts, or of two jobs of one name, whose processes ran at the same time.

    Pods of a node that did not answer are given up: nobody can end them, and the run's starts keep apart what
    they write.
    """
    running: dict[str, tuple[str, str, str]] = {}
    given_up: set[str] = set()
    complaints: dict[frozenset[str], str] = {}
    for sight in sights:
        if sight.kind == NODE:
            if sight.deleted or not is_ready(sight.obj):
                given_up |= {uid for uid, (_, node, _) in running.items() if node == name_of(sight.obj)}
        elif sight.kind == POD and (attempt := labels_of(sight.obj).get(names.LABEL_ATTEMPT)):
            uid = uid_of(sight.obj)
            running.pop(uid, None)
            if not sight.deleted and runs(sight.obj):
                gang = f"{labels_of(sight.obj).get(names.LABEL_JOB_UID)}/{attempt}"
                running[uid] = (gang, sight.obj["spec"].get("nodeName", ""), name_of(sight.obj))
        now = {gang: pod for uid, (gang, _, pod) in running.items() if uid not in given_up}
        if len(now) > 1:
            complaints.setdefault(frozenset(now), f"ran at once: {', '.join(sorted(now.values()))}")
    return list(complaints.values())


def runs(pod: Object) -> bool:
    """Whether a container of the pod runs, as far as anybody knows; its phase says so some time later."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any("running" in container["state"] for container in containers)


def is_ready(node: Object) -> bool:
    """Whether a node answers."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def left_over(left: Sequence[Object]) -> list[str]:
    """Complain of children without an owner, of more of a kind than a job has, and of pods that still run."""
    uids = {uid_of(obj) for obj in left}
    complaints = []
    for obj in left:
        owners = obj["metadata"].get("ownerReferences") or []
        called = f"{obj['kind']} {name_of(obj)}"
        if any(owner["uid"] not in uids for owner in owners):
            complaints.append(f"{called} belongs to something that is gone")
        elif not owners and obj["kind"] not in ("FineTuneJob", "PersistentVolumeClaim"):
            complaints.append(f"{called} belongs to nothing")
        if obj["kind"] == "Pod" and runs(obj):
            complaints.append(f"{called} still runs")
    counts = Counter(obj["kind"] for obj in left)
    complaints += [f"{counts[kind]} objects of kind {kind}" for kind in ONE_EACH if counts[kind] > 1]
    return complaints


def standstills(sights: Sequence[Sight], patience: float) -> list[str]:
    """Complain of each time at which phase, attempt and step stayed as they were for too long."""
    moments = changes(sights)
    if moments and moments[-1][1][0] not in ENDS:
        moments.append((sights[-1].at, ("", 0, 0)))
    return [
        f"nothing moved for {ended - began:.0f} s in phase {phase} of attempt {attempt}, at step {step}"
        for (began, (phase, attempt, step)), (ended, _) in pairwise(moments)
        if ended - began > patience and phase not in ENDS
    ]


def changes(sights: Iterable[Sight]) -> list[tuple[float, tuple[str, int, int]]]:
    """When the job was first seen in each new place."""
    moments: list[tuple[float, tuple[str, int, int]]] = []
    for sight in sights:
        if sight.kind != FINETUNEJOB:
            continue
        now = where(sight.obj)
        if not moments or moments[-1][1] != now:
            moments.append((sight.at, now))
    return moments


def where(job: Object) -> tuple[str, int, int]:
    """Phase, attempt and step of a job."""
    status = job.get("status") or {}
    return (
        phase_of(job),
        int(status.get("attempt") or 0),
        int((status.get("progress") or {}).get("step") or 0),
    )


def phase_of(job: Object) -> str:
    """Its phase; empty before the operator has looked at it."""
    return str((job.get("status") or {}).get("phase", ""))
