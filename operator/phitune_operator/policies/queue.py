"""What Kueue says of a gang: whether its queue is there, why it waits, and why it was taken back. Pure.

Kueue alone decides when a suspended gang runs. A gang that it stops again saves its work and leaves; the next
attempt waits in the queue for its turn, and goes on from the checkpoint.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from phitune_operator.blocked import BlockedError
from phitune_operator.kinds import Object
from phitune_operator.observed import Admission
from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import End, Verdict

QUEUED = "Queued"
PREEMPTED, EVICTED = "Preempted", "Evicted"
UNHEARD_FOR = timedelta(seconds=30)
"""How long Kueue gets to take note of a gang."""
LONGEST_PAUSE = timedelta(minutes=1)


def check(queue: str, queues: Sequence[str] | None) -> None:
    """Raise BlockedError (QueueNotFound) if there is no such LocalQueue; None: there is no Kueue."""
    if queues is None:
        raise BlockedError(
            "QueueNotFound",
            f"spec.queueName: {queue} is a queue of Kueue's, and this cluster has no Kueue; install it, or "
            "remove spec.queueName",
        )
    if queue not in queues:
        there = f"there are {', '.join(sorted(queues))}" if queues else "there are none"
        raise BlockedError(
            "QueueNotFound",
            f"spec.queueName: there is no LocalQueue {queue} in this namespace ({there}); name another one, "
            "or let the cluster's administrator create it",
        )


def admission_of(workloads: Sequence[Object]) -> Admission | None:
    """Read the Workload of a gang; None if there is none yet."""
    if not workloads:
        return None
    newest = max(workloads, key=lambda workload: str(workload["metadata"].get("creationTimestamp", "")))
    status: Mapping[str, Any] = newest.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        told = evicted
    elif reserved.get("status") == "True":
        told = {"reason": "QuotaReserved", "message": "has its quota, and waits for admission checks"}
    else:
        told = reserved
    reason, message = told.get("reason", "Pending"), told.get("message", "waits for its turn")
    return Admission(reason=reason, message=message)


def how_it_waits(admission: Admission | None) -> str:
    """Say why a gang is queued; None stands for a Kueue that has not taken note of it in its time."""
    if admission is not None:
        return f"{admission.reason}: {admission.message}"
    return (
        "Kueue has taken no note of it: does it run, and is this kind of job among integrations.frameworks "
        "in its configuration?"
    )


def how_it_was_stopped(pods: Sequence[PodView], admission: Admission | None, *, has_run: bool) -> End | None:
    """Judge a gang that is suspended; None if it only waits, or if its pods are yet to be stopped.

    `has_run`: whether it was admitted before.
    """
    gone = not pods and has_run
    if not gone and not any(pod.is_terminating or pod.has_ended for pod in pods):
        return None
    is_preempted = admission is not None and admission.reason == PREEMPTED
    why = f" ({admission.reason}: {admission.message})" if admission is not None else ""
    return End(
        verdict=Verdict.DISRUPTED,
        reason=PREEMPTED if is_preempted else EVICTED,
        message=f"the gang was suspended while it ran{why}",
        pod=next(iter(pods), None),
    )


def pause(waited: timedelta) -> timedelta:
    """How long until Kueue is asked again: the longer, the longer a gang waits.

    Its message alone may be new; its admission is told by a watch.
    """
    return min(max(timedelta(seconds=5), waited / 6), LONGEST_PAUSE)
