"""How an attempt ended, and who is to blame: the pods, in the order in which causes outrank each other.

One pod that ends takes the others with it within seconds (their connections break), so the first word is not
always the cause. What the user did outranks what the cluster did, which outranks a fault of the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from phitune_operator.kinds import Object
from phitune_operator.pods import PodView
from phitune_trainer import exit_codes

SETTLE = timedelta(seconds=5)
"""How long the other pods of the gang get to end, after the first that failed, before the cause is judged."""

EVICTED = frozenset(
    {"Evicted", "Preempting", "NodeShutdown", "NodeLost", "Terminated", "UnexpectedAdmissionError"}
)
"""Reasons that the kubelet gives a pod that it ended for the node's sake."""


class Verdict(Enum):
    """What an end means for the job."""

    SUCCEEDED = "succeeded"
    USER_ERROR = "user error"
    """The same start would fail again: never retried."""
    FAULT = "fault"
    """Retried, and counted against the restart limit."""
    DISRUPTED = "disrupted"
    """The cluster's doing, or a stop that was asked for: retried, not counted."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How an attempt ended, with the pod that tells most about it."""

    verdict: Verdict
    reason: str
    message: str
    pod: PodView | None = None


STALLED = "Stalled"
FAULT_REASONS = frozenset({"Fault", "OutOfMemory", "LeftUnasked", STALLED})
"""Reasons of the ends whose verdict is FAULT."""


def how_it_ended(gang: Object, pods: Sequence[PodView], *, num_pods: int, now: datetime) -> End | None:
    """Judge the pods of an attempt whose PyTorchJob nobody has deleted; None while it still runs.

    The PyTorchJob's own word counts only where no pod tells: it looks at the master alone.
    """
    if len(pods) == num_pods and all(pod.has_succeeded for pod in pods):
        return End(verdict=Verdict.SUCCEEDED, reason="Completed", message="every pod ended with exit code 0")
    bad = sorted((pod for pod in pods if _is_bad(pod)), key=_by_time)
    if not bad:
        return _without_a_culprit(gang, pods)
    user = [pod for pod in bad if pod.exit_code == exit_codes.USER_ERROR]
    if not user and _others_may_still_tell(pods, bad, now):
        return None
    taken = [pod for pod in bad if _was_taken(pod)]
    faulty = [pod for pod in bad if not _was_taken(pod) and pod.exit_code != exit_codes.INTERRUPTED]
    killed = [pod for pod in faulty if pod.cause == "OOMKilled"]
    if user:
        return _end(Verdict.USER_ERROR, "UserError", user[0])
    if taken:
        return _end(Verdict.DISRUPTED, _why_taken(taken[0]), taken[0])
    if killed:
        return _end(Verdict.FAULT, "OutOfMemory", killed[0])
    if faulty:
        return _end(Verdict.FAULT, "Fault", faulty[0])
    # A pod that is missing, or was made anew, may have been taken away, and have told the others to leave.
    if len(pods) == num_pods and all(pod.has_ended for pod in pods):
        return _end(Verdict.FAULT, "LeftUnasked", bad[0])
    return _end(Verdict.DISRUPTED, "Interrupted", bad[0])


def _is_bad(pod: PodView) -> bool:
    return not pod.has_succeeded and (pod.is_terminating or pod.has_ended)


def _was_taken(pod: PodView) -> bool:
    return bool(pod.disruption) or pod.cause in EVICTED or pod.is_terminating


def _why_taken(pod: PodView) -> str:
    if pod.is_gone or pod.disruption in ("DeletionByTaintManager", "DeletionByPodGC"):
        return "NodeLost"
    if pod.disruption == "PreemptionByScheduler" or pod.cause == "Preempting":
        return "Preempted"
    if pod.disruption or pod.cause in EVICTED:
        return "Evicted"
    return "PodDeleted"


def _others_may_still_tell(pods: Sequence[PodView], bad: Sequence[PodView], now: datetime) -> bool:
    if not any(pod.is_live and not pod.is_terminating for pod in pods):
        return False
    first = bad[0].finished_at
    return first is not None and timedelta() <= now - first < SETTLE


def _without_a_culprit(gang: Object, pods: Sequence[PodView]) -> End | None:
    for condition in (gang.get("status") or {}).get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") == "Failed":
            return End(verdict=Verdict.FAULT, reason="Fault", message=str(condition.get("message", "")))
        is_over = condition.get("status") == "True" and condition.get("type") == "Succeeded"
        if is_over and not any(pod.is_live for pod in pods):
            message = "pods were deleted before their end was seen"
            return End(verdict=Verdict.DISRUPTED, reason="PodDeleted", message=message)
    return None


def _end(verdict: Verdict, reason: str, pod: PodView) -> End:
    return End(verdict=verdict, reason=reason, message=sentence(pod), pod=pod)


def sentence(pod: PodView) -> str:
    """Say in one sentence how a pod ended: its own last words, or else Kubernetes's."""
    if pod.report is not None and pod.report.message:
        return pod.report.message
    if not pod.has_ended:
        return f"pod {pod.name} was deleted while it ran" + (f" ({pod.disruption})" if pod.disruption else "")
    how = f"exit code {pod.exit_code}" if pod.exit_code is not None else "no exit code"
    why = ": ".join(part for part in (pod.cause, pod.message) if part)
    return f"pod {pod.name} ended with {how}" + (f" ({why})" if why else "")


def _by_time(pod: PodView) -> tuple[float, str]:
    return (pod.finished_at.timestamp() if pod.finished_at else float("inf"), pod.name)
