"""A pod as the plan sees it: how it stands, how it ended, and why it does not start."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from phitune_operator import names
from phitune_operator.clock import from_text
from phitune_operator.kinds import Object, is_terminating, labels_of, name_of, uid_of
from phitune_operator.reports import EndReport, clean, read_end

IMAGE_TROUBLE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
"""Reasons of a waiting container whose image cannot be had."""
CONFIG_TROUBLE = "CreateContainerConfigError"
"""Reason of a waiting container that names a secret or a key of it that is not there."""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """One pod of a job."""

    name: str
    uid: str
    attempt: int | None
    """None for a pod of the prepare Job."""
    is_rank_zero: bool
    phase: str
    node: str
    address: str
    is_ready: bool
    is_terminating: bool
    grace: int
    """Seconds that it may take to end, from its deletion on; 0 if nobody has deleted it."""
    is_gone: bool
    """Terminating on a node that does not answer: nobody there can end it, and nothing waits for it."""
    exit_code: int | None
    """Of the container that does the work; None while it has not ended, or if it never started."""
    finished_at: datetime | None
    cause: str
    """Kubernetes's word for the end: OOMKilled, Evicted, Preempting, Error ...; empty if there is none."""
    message: str
    """Kubernetes's sentence for the end or for what the pod waits for; empty if there is none."""
    disruption: str
    """Why the cluster took the pod away (a condition's reason), or empty."""
    bad_image: str
    """Image that cannot be pulled, or empty."""
    bad_image_of: str
    """The init container that wants it, none of which is ours; empty where our own container does."""
    bad_config: str
    """Why its container cannot be made, such as a secret that is not there, or empty."""
    unschedulable: str
    """Why no node takes the pod, or empty."""
    unschedulable_since: datetime | None
    """When that was first said; None if a node has it, is being cleared for it, or nothing is known yet."""
    scheduled_at: datetime | None
    """When it got its node; None before."""
    ready_since: datetime | None
    """Since when its container runs; None if it does not, or that is not known."""
    report: EndReport | None
    log_tail: tuple[str, ...] = ()
    """Last lines of its log; read only for a pod that ended without last words."""

    @property
    def has_ended(self) -> bool:
        """Whether its work is over, well or not."""
        return self.exit_code is not None or self.phase in ("Succeeded", "Failed")

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.exit_code == 0 and self.phase != "Failed"

    @property
    def never_ran(self) -> bool:
        """Whether it ended before its container began: the node refused it, or an init container gave up."""
        return self.phase == "Failed" and self.exit_code is None

    @property
    def is_live(self) -> bool:
        """Whether processes may still run in it."""
        return not self.has_ended and not self.is_gone

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Last lines of its log: as it told them itself, or else as they were read."""
        told = tuple(self.report.last_lines) if self.report else ()
        return told or self.log_tail


def view(pod: Object) -> PodView:
    """Read a pod as the API server holds it; whether its node answers is not known from that."""
    status: Mapping[str, Any] = pod.get("status") or {}
    labels = labels_of(pod)
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    ended = _ended_container(status)
    phase = str(status.get("phase", "Pending"))
    scheduled = conditions.get("PodScheduled", {})
    is_refused = scheduled.get("status") == "False" and phase == "Pending"
    disrupted = conditions.get("DisruptionTarget", {})
    ready = conditions.get("Ready", {})
    attempt = labels.get(names.LABEL_ATTEMPT, "")
    bad_image, bad_image_of = _bad_image(status)
    return PodView(
        name=name_of(pod),
        uid=uid_of(pod),
        attempt=int(attempt) if attempt.isdecimal() else None,
        is_rank_zero=names.is_rank_zero(labels),
        phase=phase,
        node=str(pod.get("spec", {}).get("nodeName", "")),
        address=str(status.get("podIP", "")),
        is_ready=ready.get("status") == "True",
        is_terminating=is_terminating(pod),
        grace=int(pod["metadata"].get("deletionGracePeriodSeconds") or 0),
        is_gone=False,
        exit_code=ended.get("exitCode"),
        finished_at=from_text(ended.get("finishedAt")),
        cause=clean(str(status.get("reason") or ended.get("reason") or "")),
        message=clean(str(status.get("message") or _why_not_begun(status, ended))),
        disruption=str(disrupted.get("reason", "")) if disrupted.get("status") == "True" else "",
        bad_image=bad_image,
        bad_image_of=bad_image_of,
        bad_config=_bad_config(status),
        unschedulable=clean(str(scheduled.get("message", ""))) if is_refused else "",
        unschedulable_since=(
            from_text(scheduled.get("lastTransitionTime"))
            if is_refused and not status.get("nominatedNodeName")
            else None
        ),
        scheduled_at=(
            from_text(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None
        ),
        ready_since=from_text(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        report=read_end(str(ended.get("message", ""))),
    )


def _ended_container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses") or []:
        if container.get("name") in (names.TRAINER_CONTAINER, names.PREPARE_CONTAINER):
            state: Mapping[str, Any] = (container.get("state") or {}).get("terminated") or {}
            return state
    return {}


def _why_not_begun(status: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    """What the runtime said of a container that it could not start, or which init container gave up."""
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        return str(ended.get("message") or "")
    for container in status.get("initContainerStatuses") or []:
        code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode")
        if code:
            return f"its init container {container.get('name')} ended with exit code {code}"
    return ""


def _bad_image(status: Mapping[str, Any]) -> tuple[str, str]:
    """The image that cannot be pulled, and the init container that wants it, where one does."""
    inits = [container.get("name") for container in status.get("initContainerStatuses") or []]
    for container, waiting in _waiting(status):
        if waiting.get("reason") in IMAGE_TROUBLE:
            name = str(container.get("name", ""))
            return clean(str(container.get("image", ""))), clean(name) if name in inits else ""
    return "", ""


def _bad_config(status: Mapping[str, Any]) -> str:
    for _, waiting in _waiting(status):
        if waiting.get("reason") == CONFIG_TROUBLE:
            return clean(str(waiting.get("message") or CONFIG_TROUBLE))
    return ""


def _waiting(status: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Containers that wait, and what for."""
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        yield container, (container.get("state") or {}).get("waiting") or {}
