"""How the prepare Job stands: running, done, or failed and why; and whether a job needs one of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from phitune_operator import names
from phitune_operator.draft import Draft
from phitune_operator.kinds import Object
from phitune_operator.pods import PodView
from phitune_operator.policies.fault import OUT_OF_GPU_MEMORY, kind_of_user_error
from phitune_operator.policies.gang_end import sentence
from phitune_operator.status import condition_of
from phitune_trainer import exit_codes

SHARED, DOUBTED = "Shared", "Doubted"
"""Reasons of the condition Prepared: another job has prepared the volume; what it left there is in doubt."""


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


def is_doubtful(status: Mapping[str, Any], reason: str) -> bool:
    """Whether a user error may be that of somebody who has removed what another job had prepared.

    So it may be before the first step of a job that has not looked at the volume itself; but a GPU that is
    too small has nothing to do with the volume.
    """
    has_trained = (status.get("progress") or {}).get("step") or status.get("lastCheckpoint")
    is_shared = condition_of(status, names.CONDITION_PREPARED).get("reason") == SHARED
    return is_shared and not has_trained and reason != OUT_OF_GPU_MEMORY


def is_doubted(status: Mapping[str, Any]) -> bool:
    """Whether the job's own prepare Job is to look at what another one has prepared."""
    return condition_of(status, names.CONDITION_PREPARED).get("reason") == DOUBTED


def doubt(draft: Draft, problem: str) -> None:
    """Let the job prepare the volume itself, which mends what is missing or says what is wrong."""
    message = f"prepared by another job, and then: {problem}; model and data are looked at again"
    draft.set_condition(names.CONDITION_PREPARED, False, DOUBTED, message)
