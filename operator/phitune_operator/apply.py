"""The writes: children, status, Events. A refusal comes back in words; what may pass is an ApiError.

Rights used here:

| resource | verbs | for |
| --- | --- | --- |
| persistentvolumeclaims, configmaps | create, get | volume and config; get tells whose a name is |
| networkpolicies.networking.k8s.io | create, get | who may talk to the pods |
| jobs, pytorchjobs, jobsets, trainjobs, trainingruntimes | create, get, delete | prepare Job and gangs |
| podgroups.scheduling.k8s.io | create, get, delete | gangs, where the cluster's scheduler places them whole |
| pods | delete | what still runs of a failed gang, or waits for a lost node |
| finetunejobs/status | patch | status |
| finetunejobs | delete | `ttlAfterFinished` |
| events | create, get, patch | Events; a repeated one counts up |

Children are created, never applied over: POST is the one verb that cannot take over an object that somebody
else has made, and nothing that we make is changed later.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from phitune_operator import names
from phitune_operator.backends import provider_of
from phitune_operator.clock import to_text
from phitune_operator.kinds import (
    CLAIM,
    EVENT,
    FINETUNEJOB,
    JOBSET,
    OPTIONAL,
    TRAINJOB,
    WATCHED,
    Key,
    Kind,
    Object,
    is_controlled_by,
    is_terminating,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError, Kube
from phitune_operator.observed import Action, Announcement, Create
from phitune_operator.refusals import NAME_COLLISION, TRAINING_OPERATOR_MISSING, Refusal, refusal_of
from phitune_operator.reports import clean
from phitune_operator.status import merge_patch
from phitune_operator.store import Store

MAX_EVENT_MESSAGE = 1024
"""Characters that an Event's message may have."""
RUNTIME_UNHEARD_OF = "must be created before the TrainJob"
"""Kubeflow Trainer's word on a TrainJob whose runtime was made a moment ago: its watch has yet to tell it."""


async def carry_out(kube: Kube, store: Store, actions: Iterable[Action], *, owner: Object) -> Refusal | None:
    """Carry out the writes in their order, up to the first that is refused for good.

    Raises ApiError for what another try may do: no answer, a conflict, an object that is still going away.
    """
    for action in actions:
        if not isinstance(action, Create):
            where = action.namespace, action.name
            await kube.delete(action.kind, *where, uid=action.uid, grace=action.grace)
        elif (refusal := await _create(kube, store, action, owner)) is not None:
            return refusal
    return None


async def write_status(kube: Kube, store: Store, job: Object, status: Mapping[str, Any]) -> bool:
    """Write the status if it differs, only over the version that it was made from. Returns whether it did."""
    patch = merge_patch(job.get("status") or {}, status)
    if not patch:
        return False
    metadata = job["metadata"]
    body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": patch}
    written = await kube.merge(
        FINETUNEJOB, metadata["namespace"], metadata["name"], body, subresource="status"
    )
    store.absorb(FINETUNEJOB, written)
    return True


async def announce(kube: Kube, job: Object, announcements: Iterable[Announcement], *, now: datetime) -> None:
    """Post Events about the job. One that was posted before, word for word, counts up."""
    for announcement in announcements:
        event = _event(job, announcement, now)
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        try:
            await kube.create(EVENT, event)
        except ApiError as error:
            if not error.already_exists:
                raise
            known = await kube.get(EVENT, namespace, name) or {}
            again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": to_text(now)}
            await kube.merge(EVENT, namespace, name, again)


async def _create(kube: Kube, store: Store, action: Create, owner: Object) -> Refusal | None:
    kind, body = action.kind, action.body
    if kind == TRAINJOB and (refusal := await _look_below(kube, body, owner)) is not None:
        return refusal
    try:
        _remember(store, kind, await kube.create(kind, body))
    except ApiError as error:
        if error.already_exists:
            return await _look_at(kube, store, action, owner)
        if kind in OPTIONAL and error.not_found and "namespaces" not in error.message:
            message = f"the cluster has no {kind} kind; install {provider_of(kind)}"
            return Refusal(reason=TRAINING_OPERATOR_MISSING, message=message)
        if RUNTIME_UNHEARD_OF in error.message:
            raise ApiError(409, "Conflict", f"{kind} {name_of(body)}: {error.message}") from error
        if error.is_refusal and "is being terminated" not in error.message:
            return refusal_of(f"{kind} {name_of(body)}: {error.message}")
        raise
    return None


async def _look_at(kube: Kube, store: Store, action: Create, owner: Object) -> Refusal | None:
    """An object of the name is there: ours (fine), an earlier job's on its way out (wait), or somebody's."""
    kind, name, namespace = action.kind, name_of(action.body), action.body["metadata"]["namespace"]
    found = await kube.get(kind, namespace, name)
    if found is None:
        raise ApiError(409, "Conflict", f"{kind} {name} has just been deleted")
    labels = labels_of(found)
    was_ours = labels.get(names.LABEL_MANAGED_BY) == names.MANAGER
    is_ours = is_controlled_by(found, uid_of(owner)) or (
        kind == CLAIM and was_ours and labels.get(names.LABEL_JOB) == name_of(owner)
    )
    refusal = _refusal_for(kind, found, is_ours=is_ours)
    if refusal is None:
        _remember(store, kind, found)
    return refusal


async def _look_below(kube: Kube, trainjob: Object, owner: Object) -> Refusal | None:
    """Trainer takes the JobSet of a TrainJob's name for the one that it made, whoever did."""
    found = await kube.get(JOBSET, trainjob["metadata"]["namespace"], name_of(trainjob))
    if found is None:
        return None
    return _refusal_for(JOBSET, found, is_ours=labels_of(found).get(names.LABEL_JOB_UID) == uid_of(owner))


def _refusal_for(kind: Kind, found: Object, *, is_ours: bool) -> Refusal | None:
    name, was_ours = name_of(found), labels_of(found).get(names.LABEL_MANAGED_BY) == names.MANAGER
    if is_terminating(found) or (was_ours and not is_ours):
        raise ApiError(409, "Conflict", f"{kind} {name} of an earlier job is still being deleted")
    if is_ours:
        return None
    return Refusal(
        reason=NAME_COLLISION,
        message=f"{kind} {name} exists and was not made for this job; delete it, or rename the job",
    )


def _remember(store: Store, kind: Kind, obj: Object) -> None:
    """Take in what is watched: nobody would hear of the end of anything else."""
    if kind in WATCHED:
        store.absorb(kind, obj)


def _event(job: Object, announcement: Announcement, now: datetime) -> Object:
    key = Key(job["metadata"]["namespace"], name_of(job))
    message = clean(announcement.message, MAX_EVENT_MESSAGE)
    said = "\n".join((uid_of(job), announcement.reason, message))
    moment = to_text(now)
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {
            "namespace": key.namespace,
            "name": f"{key.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
        },
        "involvedObject": {
            "apiVersion": FINETUNEJOB.api_version,
            "kind": FINETUNEJOB.kind,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid_of(job),
        },
        "type": "Warning" if announcement.is_warning else "Normal",
        "reason": announcement.reason,
        "message": message,
        "source": {"component": names.MANAGER},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
