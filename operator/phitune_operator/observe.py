"""The reads: all about one job, from the store and, where no watch tells, the API server and rank 0.

Rights used here, beside list and watch of the kinds in the store (finetunejobs, pytorchjobs, jobs, pods,
configmaps, persistentvolumeclaims):

| resource | verbs | for |
| --- | --- | --- |
| persistentvolumeclaims | get | the claim that a job names |
| nodes | get, list | GPU products; whether the node of a pod that went silent is alive |
| events | list | why a controller could not create pods |
| pods/log | get | last lines of a pod that ended without last words |
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.attempts import POLL, was_suspended
from phitune_operator.clock import from_text
from phitune_operator.kinds import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NODE,
    POD,
    PYTORCHJOB,
    Key,
    Kind,
    Object,
    is_controlled_by,
    is_controlled_by_name,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError, Kube
from phitune_operator.observed import Observed, Settings
from phitune_operator.placement import Node, gpu_node
from phitune_operator.plan import is_finished
from phitune_operator.pods import PodView, view
from phitune_operator.policies import prepare
from phitune_operator.progress import ProgressPoller
from phitune_operator.refusals import Refusal, refusal_of
from phitune_operator.reports import MAX_LINES, ProgressReport, clean_lines
from phitune_operator.status import is_true
from phitune_operator.store import Store
from phitune_operator.validate import InvalidJobError, read_job

POD_CREATION_GRACE = timedelta(seconds=3)
"""How long a controller gets to create its pods before we ask why there are none."""
CREATION_FAILURES = frozenset({"FailedCreate", "FailedCreatePod"})
"""Reasons of the Events by which controllers say that a pod was refused."""


class Observer:
    """Gathers what is known about a job."""

    def __init__(self, kube: Kube, store: Store, poller: ProgressPoller, settings: Settings) -> None:
        self._kube = kube
        self._store = store
        self._poller = poller
        self._settings = settings
        self._typed: dict[Key, tuple[str, int, FineTuneJob | None, tuple[str, ...]]] = {}

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a job that is gone."""
        self._typed.pop(key, None)
        self._poller.forget(key)

    async def observe(self, key: Key, *, now: datetime) -> Observed | None:
        """Return everything about the job, or None if there is no such job. Raises ApiError."""
        raw = self._store.job(key)
        if raw is None:
            return None
        job, unreadable = self._read(key, raw)
        seen = Observed(
            now=now,
            settings=self._settings,
            raw=raw,
            job=job,
            unreadable=unreadable,
            claim=next(iter(self._named(CLAIM, key, names.workspace_claim(key.name))), None),
            config_map=next(iter(self._mine(CONFIG_MAP, key, raw)), None),
            prepare=next(iter(self._mine(JOB, key, raw)), None),
            gangs=tuple(self._mine(PYTORCHJOB, key, raw)),
            pods=tuple(view(pod) for pod in self._pods(key, raw)),
            farewell=self._farewell(key, raw),
        )
        if job is None or seen.is_deleted or is_finished(seen):
            return seen
        if is_between_gangs(seen):
            await self._make_sure(PYTORCHJOB, key, raw)
            await self._make_sure(POD, key, raw)
            gangs, pods = self._mine(PYTORCHJOB, key, raw), self._pods(key, raw)
            seen = replace(seen, gangs=tuple(gangs), pods=tuple(view(pod) for pod in pods))
        seen = replace(seen, pods=await self._with_node_and_log(seen))
        progress, silence = await self._progress(seen)
        return replace(
            seen,
            claim=await self._claim(seen),
            nodes=await self._nodes(seen),
            refusal=await self._why_no_pods(seen),
            progress=progress,
            silence=silence,
        )

    def _read(self, key: Key, raw: Object) -> tuple[FineTuneJob | None, tuple[str, ...]]:
        version = (uid_of(raw), int(raw["metadata"].get("generation") or 0))
        known = self._typed.get(key)
        if known is not None and known[:2] == version:
            return known[2:]
        document = {**raw, "metadata": {"name": key.name, "namespace": key.namespace}}
        try:
            read: tuple[FineTuneJob | None, tuple[str, ...]] = (read_job(document), ())
        except InvalidJobError as error:
            read = (None, tuple(map(str, error.problems)))
        self._typed[key] = (*version, *read)
        return read

    def _named(self, kind: Kind, key: Key, name: str) -> list[Object]:
        return [obj for obj in self._store.children(key, kind) if name_of(obj) == name]

    def _mine(self, kind: Kind, key: Key, raw: Object) -> list[Object]:
        """Children of this very job, not of an earlier one of its name."""
        return [obj for obj in self._store.children(key, kind) if is_controlled_by(obj, uid_of(raw))]

    def _pods(self, key: Key, raw: Object) -> list[Object]:
        return [pod for pod in self._store.children(key, POD) if self._is_ours(pod, key, raw)]

    def _farewell(self, key: Key, raw: Object) -> PodView | None:
        pod = self._store.farewell(key)
        return view(pod) if pod is not None and self._is_ours(pod, key, raw) else None

    def _is_ours(self, pod: Object, key: Key, raw: Object) -> bool:
        """Whether one of the job's own objects controls the pod: anybody may copy labels.

        The names count, too, for an object may be gone before its pods are.
        """
        labels = labels_of(pod)
        if labels.get(names.LABEL_JOB_UID) != uid_of(raw):
            return False
        parents = [*self._mine(JOB, key, raw), *self._mine(PYTORCHJOB, key, raw)]
        if any(is_controlled_by(pod, uid_of(parent)) for parent in parents):
            return True
        attempt = labels.get(names.LABEL_ATTEMPT, "")
        kind, name = (PYTORCHJOB, f"{key.name}-{attempt}") if attempt else (JOB, names.prepare_job(key.name))
        return is_controlled_by_name(pod, kind, name)

    async def _make_sure(self, kind: Kind, key: Key, raw: Object) -> None:
        """Let the store have the job's objects of a kind as they are now.

        The watches are behind each other, and one that begins anew never tells what was deleted meanwhile.
        """
        uid = uid_of(raw)
        known = {
            uid_of(obj)
            for obj in self._store.children(key, kind)
            if labels_of(obj).get(names.LABEL_JOB_UID) == uid
        }
        listed = await self._kube.list(kind, key.namespace, labels=f"{names.LABEL_JOB_UID}={uid}")
        self._store.replace(kind, listed, known_before=known)

    async def _with_node_and_log(self, seen: Observed) -> tuple[PodView, ...]:
        """Add what pods do not say themselves: whether their node is alive, and their log's last lines."""
        return tuple([await self._completed(seen, pod) for pod in seen.pods])

    async def _completed(self, seen: Observed, pod: PodView) -> PodView:
        if pod.is_terminating and pod.node and not pod.has_ended:
            return replace(pod, is_gone=await self._is_silent(pod.node))
        if pod.has_ended and not pod.has_succeeded and not pod.last_lines and is_to_be_judged(seen, pod):
            return replace(pod, log_tail=tuple(await self._log_tail(seen.key, pod)))
        return pod

    async def _is_silent(self, node: str) -> bool:
        found = await self._kube.get(NODE, None, node)
        if found is None:
            return True
        conditions = (found.get("status") or {}).get("conditions") or []
        return not any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)

    async def _log_tail(self, key: Key, pod: PodView) -> list[str]:
        container = names.PREPARE_CONTAINER if pod.attempt is None else names.TRAINER_CONTAINER
        try:
            return clean_lines(await self._kube.pod_log(key.namespace, pod.name, container, lines=MAX_LINES))
        except ApiError:
            return []  # the node is gone, or the container never started: there is no log to show

    async def _claim(self, seen: Observed) -> Object | None:
        """The claim, asked for while it matters: before pods use it. Claims of users are not watched."""
        storage = seen.spec.storage
        if storage.claim_name is None and seen.claim is not None:
            return seen.claim
        if seen.gang_pods:
            return seen.claim
        name = storage.claim_name or names.workspace_claim(seen.key.name)
        return await self._kube.get(CLAIM, seen.key.namespace, name)

    async def _nodes(self, seen: Observed) -> tuple[Node, ...] | None:
        if seen.spec.resources.gpus_per_node == 0 or "placement" in seen.status:
            return None
        nodes = [gpu_node(node) for node in await self._kube.list(NODE)]
        return tuple(node for node in nodes if node is not None)

    async def _why_no_pods(self, seen: Observed) -> Refusal | None:
        """What a controller said when it could not create the pods of the present stage."""
        if seen.gang is not None:
            parent, is_short = seen.gang, len(seen.gang_pods) < seen.spec.resources.nodes
        elif seen.prepare is not None:
            status = seen.prepare.get("status") or {}
            parent, is_short = seen.prepare, not seen.prepare_pods and not status.get("conditions")
        else:
            return None
        created = from_text(parent["metadata"].get("creationTimestamp"))
        if not is_short or (created is not None and seen.now - created < POD_CREATION_GRACE):
            return None
        fields = f"involvedObject.uid={uid_of(parent)},type=Warning"
        events = await self._kube.list(EVENT, seen.key.namespace, fields=fields)
        return _newest_refusal(events)

    async def _progress(self, seen: Observed) -> tuple[ProgressReport | None, timedelta | None]:
        rank_zero = next((pod for pod in seen.gang_pods if pod.is_rank_zero), None)
        if rank_zero is None or rank_zero.has_ended or not rank_zero.address or rank_zero.phase != "Running":
            return None, None
        return await self._poller.poll(seen.key, rank_zero.uid, rank_zero.address, at_most_every=POLL / 2)


def is_between_gangs(seen: Observed) -> bool:
    """Whether the next gang waits for the end of the last one, and all depends on what is really there."""
    is_over = is_true(seen.status, names.CONDITION_RESTARTING) or was_suspended(seen)
    return seen.attempt > 0 and (seen.gang is None or is_over)


def is_to_be_judged(seen: Observed, pod: PodView) -> bool:
    """Whether this pass asks why the pod failed: its attempt is the newest and nobody has said yet."""
    if pod.attempt is None:
        stage = prepare.how_it_stands(seen.prepare, ()).stage if seen.prepare else None
        return stage is prepare.Stage.FAILED
    is_judged = (seen.status.get("failure") or {}).get("attempt") == pod.attempt
    return pod.attempt == seen.attempt and not is_judged


def _newest_refusal(events: Sequence[Object]) -> Refusal | None:
    told = [event for event in events if event.get("reason") in CREATION_FAILURES]
    if not told:
        return None
    newest = max(told, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return refusal_of(str(newest.get("message", "")))
