"""How the prepare Job stands: running, done, or failed and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from phitune_operator.kinds import Object
from phitune_operator.pods import PodView
from phitune_operator.policies.fault import kind_of_user_error
from phitune_operator.policies.gang_end import sentence
from phitune_trainer import exit_codes


class Stage(Enum):
    """Where the prepare Job is in its life."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The prepare Job's state; for a failed one the reason, a sentence and the pod to look at."""

    stage: Stage
    reason: str = ""
    message: str = ""
    pod: PodView | None = None


def how_it_stands(job: Object, pods: Sequence[PodView]) -> Preparation:
    """Judge the prepare Job by its conditions; its pods tell why it failed."""
    conditions = {
        condition["type"]: condition
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    if "Complete" in conditions:
        return Preparation(stage=Stage.DONE)
    failed = conditions.get("Failed")
    if failed is None:
        return Preparation(stage=Stage.RUNNING)
    culprits = [pod for pod in pods if pod.has_ended and not pod.has_succeeded]
    if not culprits:
        return Preparation(stage=Stage.FAILED, reason="PrepareFailed", message=str(failed.get("message", "")))
    user = [pod for pod in culprits if pod.exit_code == exit_codes.USER_ERROR]
    pod = (user or sorted(culprits, key=lambda pod: (str(pod.finished_at), pod.name)))[-1]
    reason = kind_of_user_error(pod) if user else "PrepareFailed"
    return Preparation(stage=Stage.FAILED, reason=reason, message=sentence(pod), pod=pod)


def how_far_it_is(pods: Sequence[PodView]) -> tuple[str, str]:
    """Reason and message of the condition Prepared while the prepare Job is not over."""
    if waiting := next((pod.unschedulable for pod in pods if pod.unschedulable), ""):
        return "Unschedulable", waiting
    if broken := next((pod.bad_config for pod in pods if pod.bad_config), ""):
        return "NoSecret", broken
    told = [pod.log_tail[-1] for pod in pods if pod.log_tail and not pod.has_ended]
    last = told[-1].removeprefix("prepare: ") if told else "model and data are being fetched or checked"
    return "Preparing", last
