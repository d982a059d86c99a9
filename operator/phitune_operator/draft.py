"""A plan while it is being made: the status that the job shall have, from the one it has, and what to do.

A pass sets what it knows; what it does not touch stays as it is. A condition that says something new becomes
an Event, so that the two never differ.
"""

from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from phitune_operator import names
from phitune_operator.blocked import MAX_MESSAGE
from phitune_operator.clock import to_text
from phitune_operator.kinds import Object
from phitune_operator.observed import Action, Announcement, Create, Plan
from phitune_operator.pods import PodView
from phitune_operator.remedies import REMEDIES
from phitune_operator.reports import CheckpointReport, EndReport, EvaluationReport, ProgressReport, clean
from phitune_operator.status import condition_of, duration_text

AFTER_A_WRITE = 5.0
"""Seconds between a write and a look at what came of it."""


class Draft:
    """Collects a plan."""

    def __init__(self, job: Object, *, now: datetime) -> None:
        self.status: dict[str, Any] = deepcopy(job.get("status") or {})
        self.actions: list[Action] = []
        self._announcements: list[Announcement] = []
        self._look_again: float | None = None
        self._generation = int(job["metadata"].get("generation") or 0)
        self._now = now
        self.status["observedGeneration"] = self._generation

    def plan(self) -> Plan:
        """Return what was collected."""
        return Plan(
            status=self.status,
            actions=tuple(self.actions),
            announcements=tuple(self._announcements),
            look_again=self._look_again,
        )

    @property
    def creates(self) -> bool:
        """Whether anything is to be created."""
        return any(isinstance(action, Create) for action in self.actions)

    def do(self, *actions: Action) -> None:
        """Add writes, to be done in this order; what came of them is looked at soon.

        No watch may tell of it: a controller that is not allowed to create pods says so in an Event alone.
        """
        self.actions += actions
        if actions:
            self.look_again(AFTER_A_WRITE)

    def look_again(self, after: timedelta | float) -> None:
        """Ask for another look after so long (seconds), or earlier if that was asked for already."""
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        self._look_again = seconds if self._look_again is None else min(self._look_again, seconds)

    def set(self, name: str, value: Any) -> None:
        """Set a field of the status, or remove it with None."""
        if value is None:
            self.status.pop(name, None)
        else:
            self.status[name] = value

    def stamp(self, name: str) -> None:
        """Set a field to the present time, once."""
        self.status.setdefault(name, to_text(self._now))

    def announce(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Add an Event; it is posted if the status changes."""
        self._announcements.append(Announcement(reason=reason, message=message, is_warning=is_warning))

    def condition(self, kind: str) -> Mapping[str, Any]:
        """Return a condition as it stands; empty if it was never set."""
        return condition_of(self.status, kind)

    def set_condition(self, kind: str, value: bool, reason: str, message: str) -> bool:
        """Set a condition; its time changes only when its value does. Returns whether its reason is new."""
        conditions: list[dict[str, Any]] = self.status.setdefault("conditions", [])
        before = next((condition for condition in conditions if condition["type"] == kind), None)
        after = {
            "type": kind,
            "status": "True" if value else "False",
            "reason": reason,
            "message": clean(message, MAX_MESSAGE),
            "observedGeneration": self._generation,
            "lastTransitionTime": to_text(self._now),
        }
        if before is None:
            conditions.append(after)
            return True
        if before["status"] == after["status"]:
            after["lastTransitionTime"] = before["lastTransitionTime"]
        conditions[conditions.index(before)] = after
        return (before["status"], before["reason"]) != (after["status"], after["reason"])

    def take_progress(self, report: ProgressReport | None) -> None:
        """Take over how far the run is; a score or checkpoint that it does not mention stays."""
        if report is None:
            return
        eta = duration_text(timedelta(seconds=report.eta_seconds)) if report.eta_seconds is not None else None
        known = {
            "state": report.state,
            "step": report.step,
            "totalSteps": report.total_steps,
            "percent": round(report.percent, 1),
            "epoch": report.epoch,
            "loss": report.loss,
            "learningRate": report.learning_rate,
            "imagesPerSecond": report.images_per_second,
            "tokensPerSecond": report.tokens_per_second,
            "mfu": report.mfu,
            "eta": eta,
            "updatedAt": to_text(report.updated_at),
        }
        self.status["progress"] = {name: value for name, value in known.items() if value is not None}
        self._take_results(report.last_checkpoint, report.evaluation)

    def take_last_words(self, report: EndReport | None) -> None:
        """Take over what rank 0 said when it ended."""
        if report is None:
            return
        self.take_progress(report.progress)
        self._take_results(report.last_checkpoint, report.evaluation)
        known = {name: clean(str(path)) for name, path in report.artifact_paths.items()}
        if known:
            self.status["artifacts"] = {**(self.status.get("artifacts") or {}), **known}

    def _take_results(self, checkpoint: CheckpointReport | None, evaluation: EvaluationReport | None) -> None:
        if checkpoint is not None:
            self.status["lastCheckpoint"] = {
                "step": checkpoint.step,
                "path": checkpoint.path,
                "time": to_text(checkpoint.time),
            }
        if evaluation is not None:
            self.status["evaluation"] = evaluation.model_dump(by_alias=True, exclude_none=True)

    def record_failure(
        self, reason: str, message: str, pod: PodView | None, *, attempt: int | None = None
    ) -> None:
        """Say why something ended badly; the pod that tells most about it is named."""
        failure: dict[str, Any] = {
            "reason": reason,
            "message": clean(message),
            "remedy": REMEDIES.get(reason),
            "attempt": attempt,
        }
        if pod is not None:
            failure |= {"pod": pod.name, "node": pod.node or None, "exitCode": pod.exit_code}
            failure["lastLines"] = list(pod.last_lines) or None
        self.status["failure"] = {name: value for name, value in failure.items() if value is not None}

    def fail(self, reason: str, message: str) -> None:
        """End the job as failed."""
        self.status["phase"] = "Failed"
        self.stamp("completionTime")
        self.set_condition(names.CONDITION_RUNNING, False, "Failed", "the job has failed")
        if self.set_condition(names.CONDITION_FAILED, True, reason, message):
            self.announce(reason, message, is_warning=True)
