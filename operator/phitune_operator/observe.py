"""The reads: all about one job, from the store and, where no watch tells, the API server and rank 0.

Rights used here, beside list and watch of the kinds in the store (finetunejobs, pytorchjobs, jobsets,
trainjobs, trainingruntimes, podgroups, jobs, pods, configmaps, persistentvolumeclaims):

| resource | verbs | for |
| --- | --- | --- |
| persistentvolumeclaims | get | the claim that a job names |
| finetunejobs | list | whether a job is still there before its gang is made again |
| nodes | get, list | what they have for pods (`capacity.py`); whether that of a silent pod is alive |
| pods | list | what is held of nodes (`capacity.py`); in the whole cluster, where allowed |
| events | list | why a controller could not create pods |
| localqueues.kueue.x-k8s.io | list | whether the queue that a job names is there |
| workloads.kueue.x-k8s.io | list | why a gang is queued, or was taken back |
| pods/log | get | last lines of a pod that ended without last words; how far prepare is |
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from phitune_operator import names
from phitune_operator.accepted_once import as_accepted
from phitune_operator.api import FineTuneJob
from phitune_operator.attempts import CREATING, POLL, PROGRESS, was_suspended
from phitune_operator.backends import BACKENDS, backend_of, is_suspended
from phitune_operator.capacity import Capacity, Reading
from phitune_operator.clock import from_text
from phitune_operator.decide import is_pinned
from phitune_operator.granted import Granted
from phitune_operator.kinds import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    FINETUNEJOB,
    GANGS,
    JOB,
    JOBSET,
    LOCAL_QUEUE,
    NEEDS,
    NODE,
    POD,
    PYTORCHJOB,
    WORKLOAD,
    Key,
    Kind,
    Object,
    controllers_of,
    is_controlled_by,
    is_controlled_by_name,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError, Kube
from phitune_operator.observed import Admission, Observed, Settings
from phitune_operator.plan import is_finished
from phitune_operator.pods import PodView, view
from phitune_operator.policies import prepare, queue
from phitune_operator.policies.half_placed import waits_for_nodes
from phitune_operator.prepared import what_to_prepare
from phitune_operator.progress import ProgressPoller
from phitune_operator.refusals import Refusal, refusal_of
from phitune_operator.reports import MAX_LINES, ProgressReport, clean_lines
from phitune_operator.status import condition_of, is_true
from phitune_operator.stopwatch import Stopwatch
from phitune_operator.store import Store
from phitune_operator.validate import InvalidJobError, read_job

POD_CREATION_GRACE = timedelta(seconds=3)
"""How long a controller gets to create its pods before we ask why there are none."""
PREPARE_IS_LONG = timedelta(seconds=10)
"""After so long it is worth a question how far the prepare pod is."""
LOG_TIMEOUT = 5.0
"""Seconds that the kubelet may take to hand out a few lines."""
MOST_POLLS = 40
"""Jobs a second whose progress is read and written to status: the more jobs run, the longer the pause."""
CREATION_FAILURES = frozenset(
    {"FailedCreate", "FailedCreatePod", "JobCreationFailed", "TrainJobResourcesCreationFailed"}
)
"""Reasons of the Events by which controllers say that a pod, or what was to make it, was refused."""


class Observer:
    """Gathers what is known about a job."""

    def __init__(self, kube: Kube, store: Store, poller: ProgressPoller, settings: Settings) -> None:
        self._kube = kube
        self._store = store
        self._poller = poller
        self._settings = settings
        self._capacity = Capacity(kube)
        self.granted = Granted(store, settings)
        self._stopwatch = Stopwatch()
        self._typed: dict[Key, tuple[str, int, FineTuneJob | None, tuple[str, ...]]] = {}

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a job that is gone."""
        self._typed.pop(key, None)
        self._poller.forget(key)
        self._stopwatch.forget(key)
        self.granted.forget(key)

    async def observe(self, key: Key, *, now: datetime) -> Observed | None:
        """Return everything about the job, or None if there is no such job. Raises ApiError."""
        raw = self._store.job(key)
        if raw is None:
            return None
        job, problems = self._read(key, raw)
        seen = Observed(
            now=now,
            settings=self._settings,
            raw=raw,
            job=job,
            problems=problems,
            claim=next(iter(self._named(CLAIM, key, names.workspace_claim(key.name))), None),
            config_map=next(iter(self._mine(CONFIG_MAP, key, raw)), None),
            prepare=next(iter(self._mine(JOB, key, raw)), None),
            gangs=tuple(self._gangs(key, raw)),
            needs=tuple(obj for kind in NEEDS for obj in self._mine(kind, key, raw)),
            pods=tuple(view(pod) for pod in self._pods(key, raw)),
            farewell=self._farewell(key, raw),
            poll_in=self._pace(raw),
        )
        if is_finished(seen):
            self.forget(key)  # most jobs there are have ended, and are hardly ever looked at again
            return seen
        if job is None or seen.is_deleted:
            return seen
        if is_between_gangs(seen) or is_ahead_of_its_pods(seen):
            await self._make_sure(BACKENDS[backend_of(seen.status, PYTORCHJOB.kind)].kind, key, raw)
            await self._make_sure(POD, key, raw)
            gangs, pods = self._gangs(key, raw), self._pods(key, raw)
            seen = replace(seen, gangs=tuple(gangs), pods=tuple(view(pod) for pod in pods))
        if is_to_be_made(seen) and await self._is_gone(key, raw):
            return None
        seen = replace(seen, pods=await self._with_node_and_log(seen))
        progress, silence = await self._progress(seen)
        refusal = await self._why_no_pods(seen)
        claim = await self._claim(seen)
        nodes = await self._nodes(seen)
        return replace(
            seen,
            claim=claim,
            prepared_by=self._prepared_by(seen, claim),
            nodes=nodes.nodes if nodes else None,
            nodes_at=nodes.at if nodes else 0.0,
            queues=await self._queues(seen),
            admission=await self._admission(seen),
            refusal=refusal,
            waited=self._waited(seen, refusal),
            progress=progress,
            silence=silence,
            poll_in=self._poller.due_in(key, every=seen.poll_in),
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
            # What was placed, an operator of other rules has accepted; it may have pods.
            was_accepted = "placement" in (raw.get("status") or {})
            read = (as_accepted(document) if was_accepted else None, tuple(map(str, error.problems)))
        self._typed[key] = (*version, *read)
        return read

    def _named(self, kind: Kind, key: Key, name: str) -> list[Object]:
        return [obj for obj in self._store.children(key, kind) if name_of(obj) == name]

    def _mine(self, kind: Kind, key: Key, raw: Object) -> list[Object]:
        """Children of this very job, not of an earlier one of its name."""
        return [obj for obj in self._store.children(key, kind) if is_controlled_by(obj, uid_of(raw))]

    def _gangs(self, key: Key, raw: Object) -> list[Object]:
        return [gang for kind in GANGS for gang in self._mine(kind, key, raw)]

    def _pods(self, key: Key, raw: Object) -> list[Object]:
        parents = self._parents(key, raw)
        return [pod for pod in self._store.children(key, POD) if _is_ours(pod, key, raw, parents)]

    def _farewell(self, key: Key, raw: Object) -> PodView | None:
        pod = self._store.farewell(key)
        if pod is None or not _is_ours(pod, key, raw, self._parents(key, raw)):
            return None
        return view(pod)

    def _parents(self, key: Key, raw: Object) -> set[str]:
        """Uids of what controls the job's pods: its gangs, and the Jobs that it and they have made."""
        gangs = {uid_of(gang) for gang in self._gangs(key, raw)}
        mine = {uid_of(raw), *gangs}
        return gangs | {uid_of(job) for job in self._store.children(key, JOB) if mine & controllers_of(job)}

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
        try:
            listed = await self._kube.list(kind, key.namespace, labels=f"{names.LABEL_JOB_UID}={uid}")
        except ApiError as error:
            if kind not in GANGS or not error.not_found:
                raise
            listed = []  # the kind is gone, and its objects with it: who makes the next one is told so
        self._store.replace(kind, listed, known_before=known)

    async def _is_gone(self, key: Key, raw: Object) -> bool:
        """Whether there is no such job any more, which may be why its gang is not there either."""
        listed = await self._kube.list(FINETUNEJOB, key.namespace, fields=f"metadata.name={key.name}")
        return uid_of(raw) not in map(uid_of, listed)

    async def _with_node_and_log(self, seen: Observed) -> tuple[PodView, ...]:
        """Add what pods do not say themselves: whether their node is alive, and their log's last lines."""
        return tuple([await self._completed(seen, pod) for pod in seen.pods])

    async def _completed(self, seen: Observed, pod: PodView) -> PodView:
        if pod.is_terminating and pod.node and not pod.has_ended:
            return replace(pod, is_gone=await self._is_silent(pod.node))
        if pod.has_ended and not pod.has_succeeded and not pod.last_lines and is_to_be_judged(seen, pod):
            return replace(pod, log_tail=tuple(await self._log_tail(seen.key, pod)))
        if pod.attempt is None and pod.ready_since and seen.now - pod.ready_since >= PREPARE_IS_LONG:
            return replace(pod, log_tail=tuple(await self._log_tail(seen.key, pod, lines=1)))
        return pod

    async def _is_silent(self, node: str) -> bool:
        found = await self._kube.get(NODE, None, node)
        if found is None:
            return True
        conditions = (found.get("status") or {}).get("conditions") or []
        return not any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)

    async def _log_tail(self, key: Key, pod: PodView, *, lines: int = MAX_LINES) -> list[str]:
        container = names.PREPARE_CONTAINER if pod.attempt is None else names.TRAINER_CONTAINER
        try:
            async with asyncio.timeout(LOG_TIMEOUT):
                return clean_lines(await self._kube.pod_log(key.namespace, pod.name, container, lines=lines))
        except (ApiError, TimeoutError):
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

    def _prepared_by(self, seen: Observed, claim: Object | None) -> Key | None:
        if is_true(seen.status, names.CONDITION_PREPARED) or seen.prepare is not None:
            return None
        what = what_to_prepare(seen.spec, claim)
        known = self._store.prepared.last(what, now=seen.now) if what else None
        return known.job if known else None

    async def _nodes(self, seen: Observed) -> Reading | None:
        # While pods of the last gang go, they hold what the next one gets: the answer would be old at once.
        is_held = bool(seen.gangs) or any(pod.is_live for pod in seen.gang_pods)
        if is_pinned(seen) and is_held:
            return None
        return await self._capacity.nodes()

    def _waited(self, seen: Observed, refusal: Refusal | None) -> timedelta | None:
        is_waiting = seen.gang is not None and waits_for_nodes(
            seen.gang_pods,
            num_pods=seen.spec.resources.nodes,
            refused=refusal.message if refusal else "",
            pool=seen.pool,
        )
        return self._stopwatch.measure(seen.key, (seen.uid, seen.attempt) if is_waiting else None)

    async def _queues(self, seen: Observed) -> tuple[str, ...] | None:
        """The LocalQueues, asked for while it matters: before pods run."""
        if seen.spec.queue_name is None or (seen.gang is not None and seen.gang_pods):
            return None
        try:
            found = await self._kube.list(LOCAL_QUEUE, seen.key.namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        return tuple(map(name_of, found))

    async def _admission(self, seen: Observed) -> Admission | None:
        """What Kueue says of a gang that is suspended. Workloads are not watched: most are of other jobs."""
        if seen.gang is None or not is_suspended(seen.gang):
            return None
        labels = f"{names.LABEL_WORKLOAD_OF}={uid_of(seen.gang)}"
        try:
            return queue.admission_of(await self._kube.list(WORKLOAD, seen.key.namespace, labels=labels))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _why_no_pods(self, seen: Observed) -> Refusal | None:
        """What a controller said when it could not create the pods of the present stage."""
        if seen.gang is not None:
            if is_suspended(seen.gang):
                return None
            parent, is_short = seen.gang, len(seen.gang_pods) < seen.spec.resources.nodes
            makers = self._makers(seen, seen.gang)
        elif seen.prepare is not None:
            status = seen.prepare.get("status") or {}
            parent, is_short = seen.prepare, not seen.prepare_pods and not status.get("conditions")
            makers = [parent]
        else:
            return None
        created = from_text(parent["metadata"].get("creationTimestamp"))
        if not is_short or (created is not None and seen.now - created < POD_CREATION_GRACE):
            return None
        told: list[Object] = []
        for maker in makers:
            fields = f"involvedObject.uid={uid_of(maker)},type=Warning"
            told += await self._kube.list(EVENT, seen.key.namespace, fields=fields)
        return _newest_refusal(told)

    def _makers(self, seen: Observed, gang: Object) -> list[Object]:
        """The gang, and what stands between it and its pods: whose Events tell why these are not made."""
        between: list[Object] = []
        for kind in (JOBSET, JOB):
            owners = {uid_of(maker) for maker in (gang, *between)}
            children = self._store.children(seen.key, kind)
            between += [obj for obj in children if controllers_of(obj) & owners]
        return [gang, *between]

    async def _progress(self, seen: Observed) -> tuple[ProgressReport | None, timedelta | None]:
        rank_zero = next((pod for pod in seen.gang_pods if pod.is_rank_zero), None)
        if rank_zero is None or rank_zero.has_ended or not rank_zero.address or rank_zero.phase != "Running":
            self._poller.forget(seen.key)
            return None, None
        every = seen.poll_in if is_true(seen.status, names.CONDITION_RUNNING) else seen.poll_in / 2
        return await self._poller.poll(seen.key, rank_zero.uid, rank_zero.address, at_most_every=every)

    def _pace(self, raw: Object) -> float:
        """Seconds between two questions to rank 0. Until the ranks step, somebody waits for the answer."""
        least = PROGRESS if is_true(raw.get("status") or {}, names.CONDITION_RUNNING) else POLL
        return max(least, self._poller.num_asked / MOST_POLLS)


def _is_ours(pod: Object, key: Key, raw: Object, parents: set[str]) -> bool:
    """Whether one of the job's own objects controls the pod: anybody may copy labels.

    The names count, too, for an object may be gone before its pods are.
    """
    labels = labels_of(pod)
    if labels.get(names.LABEL_JOB_UID) != uid_of(raw):
        return False
    if controllers_of(pod) & parents:
        return True
    attempt = labels.get(names.LABEL_ATTEMPT, "")
    if not attempt.isdecimal():
        return is_controlled_by_name(pod, JOB, names.prepare_job(key.name))
    named = [backend.parent(key.name, int(attempt)) for backend in BACKENDS.values()]
    return any(is_controlled_by_name(pod, kind, name) for kind, name in named)


def is_between_gangs(seen: Observed) -> bool:
    """Whether the next gang waits for the end of the last one, and all depends on what is really there."""
    is_over = is_true(seen.status, names.CONDITION_RESTARTING) or was_suspended(seen)
    return seen.attempt > 0 and (seen.gang is None or is_over)


def is_to_be_made(seen: Observed) -> bool:
    """Whether the newest gang has its number and is not there: no write of status comes before it is made."""
    running = condition_of(seen.status, names.CONDITION_RUNNING)
    return seen.attempt > 0 and seen.gang is None and running.get("reason") == CREATING


def is_ahead_of_its_pods(seen: Observed) -> bool:
    """Whether the gang tells of an end, and the watch of its pods has not told of the pod that came to it."""
    conditions = ((seen.gang or {}).get("status") or {}).get("conditions") or []
    is_over = any(one.get("type") == "Failed" and one.get("status") == "True" for one in conditions)
    return is_over and not any(pod.has_ended or pod.is_terminating for pod in seen.gang_pods)


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
