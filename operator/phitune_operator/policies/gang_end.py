"""How an attempt ended, and who is to blame: the pods, in the order in which causes outrank each other.

One pod that ends takes the others with it within seconds (their connections break), so the first word is not
always the cause. What the user did outranks what the cluster did, which outranks a fault of the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from phitune_operator.kinds import JOBSET, TRAINJOB, Object, kind_of
from phitune_operator.pods import PodView
from phitune_operator.policies.fault import KINDS, OF_VOLUME, RANK_LOST, kind_of_fault, kind_of_user_error
from phitune_trainer import exit_codes

SETTLE = timedelta(seconds=5)
"""How long the other pods of the gang get to end, after the first that failed, before the cause is judged."""
SETTLE_AFTER_LOSS = timedelta(seconds=75)
"""The same where all that ended say that they lost another one: Kubernetes needs 50 s to notice that a node
does not answer, and its pods go some seconds later."""

EVICTED = frozenset({"Evicted", "Preempting", "NodeShutdown", "NodeLost", "Terminated"})
"""Reasons that the kubelet gives a pod that it ended for the node's sake."""
UNSEEN = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a container whose end nobody saw: its node was started again."""


KILLED = 137
"""Exit code after SIGKILL, which no fault of another pod brings about."""
SUCCEEDED = frozenset({"Succeeded", "Completed", "Complete"})
"""By which conditions a PyTorchJob, a JobSet and a TrainJob say that they have ended well."""
JOBSETS = frozenset({JOBSET, TRAINJOB})
"""A TrainJob says what its JobSet says."""


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


COMPLETED = End(verdict=Verdict.SUCCEEDED, reason="Completed", message="every pod ended with exit code 0")
STALLED = "Stalled"
FAULT_REASONS = frozenset({*KINDS, "LeftUnasked", STALLED})
"""Reasons of the ends whose verdict is FAULT."""


def have_succeeded(pods: Sequence[PodView], num_pods: int) -> bool:
    """Whether the work of an attempt is done, whatever became of its gang."""
    return len(pods) == num_pods and all(pod.has_succeeded for pod in pods)


def how_it_ended(gang: Object, pods: Sequence[PodView], *, num_pods: int, now: datetime) -> End | None:
    """Judge the pods of an attempt whose gang nobody has deleted; None while it still runs.

    The gang's own word counts only where no pod tells: a PyTorchJob looks at the master alone.
    """
    if have_succeeded(pods, num_pods):
        return COMPLETED
    bad = sorted((pod for pod in pods if _is_bad(pod)), key=_by_time)
    if not bad:
        return _without_a_culprit(gang, pods, num_pods)
    user = [pod for pod in bad if _is_users_fault(pod)]
    has_lost_one = len(pods) < num_pods or any(_is_made_anew(pod, since=bad[0].finished_at) for pod in pods)
    is_echo = not has_lost_one and all(kind_of_fault(pod) == RANK_LOST for pod in bad)
    if not user and _others_may_still_tell(pods, bad, now, SETTLE_AFTER_LOSS if is_echo else SETTLE):
        return None
    taken = [pod for pod in bad if _was_taken(pod)]
    faulty = [pod for pod in bad if not _was_taken(pod) and pod.exit_code != exit_codes.INTERRUPTED]
    if user:
        return _end(Verdict.USER_ERROR, kind_of_user_error(user[0]), user[0])
    if taken:
        return _end(Verdict.DISRUPTED, _why_taken(taken[0]), taken[0])
    if faulty:
        culprit = min(faulty, key=lambda pod: (KINDS.index(kind_of_fault(pod)), pod.exit_code != KILLED))
        if has_lost_one and kind_of_fault(culprit) == RANK_LOST:
            return _end(Verdict.DISRUPTED, "PodDeleted", culprit)
        return _end(Verdict.FAULT, kind_of_fault(culprit), culprit)
    # A pod that is missing, or was made anew, may have been taken away, and have told the others to leave.
    if len(pods) == num_pods and all(pod.has_ended for pod in pods):
        return _end(Verdict.FAULT, "LeftUnasked", bad[0])
    return _end(Verdict.DISRUPTED, "Interrupted", bad[0])


def _is_bad(pod: PodView) -> bool:
    return not pod.has_succeeded and (pod.is_terminating or pod.has_ended)


def _is_users_fault(pod: PodView) -> bool:
    return pod.exit_code == exit_codes.USER_ERROR and kind_of_fault(pod) not in OF_VOLUME


def _is_made_anew(pod: PodView, *, since: datetime | None) -> bool:
    """Whether a controller made the pod in the place of one that is gone."""
    is_later = since is not None and pod.scheduled_at is not None and pod.scheduled_at > since
    return pod.phase == "Pending" or is_later


def _was_taken(pod: PodView) -> bool:
    is_clusters = bool(pod.disruption) or pod.cause in EVICTED | UNSEEN
    return is_clusters or pod.is_terminating or pod.never_ran


def _why_taken(pod: PodView) -> str:
    if pod.is_gone or pod.disruption in ("DeletionByTaintManager", "DeletionByPodGC"):
        return "NodeLost"
    if pod.disruption == "PreemptionByScheduler" or pod.cause == "Preempting":
        return "Preempted"
    if pod.disruption or pod.cause in EVICTED:
        return "Evicted"
    if pod.cause in UNSEEN:
        return "NodeLost"
    return "PodDeleted" if pod.is_terminating else "NeverRan"


def _others_may_still_tell(
    pods: Sequence[PodView], bad: Sequence[PodView], now: datetime, settle: timedelta
) -> bool:
    if not any(pod.is_live and not pod.is_terminating for pod in pods):
        return False
    first = bad[0].finished_at
    return first is not None and timedelta() <= now - first < settle


def _without_a_culprit(gang: Object, pods: Sequence[PodView], num_pods: int) -> End | None:
    is_jobset = kind_of(gang) in JOBSETS
    if is_jobset and any(pod.is_live for pod in pods):
        return None  # it ends after its pods: what is known of them is behind
    for condition in (gang.get("status") or {}).get("conditions") or []:
        if condition.get("status") != "True":
            continue
        # What fails by itself stays, for its logs. Without any pod, none could be made; but a JobSet takes
        # pods that are deleted for failed ones.
        is_missing = len(pods) < num_pods and (bool(pods) or is_jobset)
        if condition.get("type") == "Failed" and not is_missing:
            return End(verdict=Verdict.FAULT, reason="Fault", message=str(condition.get("message", "")))
        is_done = condition.get("type") in SUCCEEDED and not any(pod.is_live for pod in pods)
        if condition.get("type") == "Failed" or is_done:
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
