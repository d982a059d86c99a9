"""Builders of what the operator sees of a job: a test names what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from harness.jobs import SMALL, finetunejob, merged
from phitune_operator import names
from phitune_operator.decide import subject_of
from phitune_operator.kinds import Object
from phitune_operator.nodes import Node
from phitune_operator.observed import Observed, Settings
from phitune_operator.pods import PodView, view
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.subject import Subject
from phitune_operator.validate import read_job

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT_ELEVEN = "2026-01-01T11:00:00Z"
UID = "12345678-0000-0000-0000-000000000000"
PREPARED: Object = {
    "attempt": 1,
    "placement": {"image": "trainer:1", "product": "CPU"},
    "conditions": [
        {"type": "Prepared", "status": "True", "reason": "Prepared", "lastTransitionTime": AT_ELEVEN},
        {"type": "Running", "status": "False", "reason": "Starting", "lastTransitionTime": AT_ELEVEN},
    ],
}
"""Status of a job whose first gang is there."""


H100 = tuple(
    Node(name=f"gpu-{index}", labels={names.LABEL_GPU_PRODUCT: "H100"}, num_gpus=8) for index in range(2)
)


def observed(spec: Mapping[str, Any] | None = None, status: Object | None = None, **more: Any) -> Observed:
    """A small job of two pods on CPU at noon, on a volume for large ones; `spec` is laid over it.

    `more` are fields of Observed.
    """
    raw = finetunejob("digits") | {"spec": merged(merged(SMALL, {"storage": {"size": "1Ti"}}), spec or {})}
    raw["metadata"] |= {"namespace": "team", "uid": UID, "generation": 1, "resourceVersion": "7"}
    job = read_job({**raw, "metadata": {"name": "digits"}})
    if status is not None:
        raw["status"] = status
    return Observed(now=NOON, settings=Settings(trainer_image="trainer:1"), raw=raw, job=job, **more)


def subject(spec: Mapping[str, Any] | None = None) -> Subject:
    """The same job with everything decided, in a cluster of two H100 nodes."""
    return subject_of(observed(spec, nodes=H100))[0]


def gang(attempt: int = 1, **status: Any) -> Object:
    """The PyTorchJob of an attempt, as the API server holds it."""
    made = pytorchjob(subject(), attempt)
    made["metadata"] |= {"uid": f"gang-{attempt}", "creationTimestamp": "2026-01-01T11:59:00Z"}
    return {**made, "status": status} if status else made


def pod(
    index: int = 0,
    *,
    code: int | None = None,
    phase: str = "",
    seconds_ago: int = 60,
    attempt: int = 1,
    cause: str = "",
    message: str = "",
    conditions: Sequence[Object] = (),
    **metadata: Any,
) -> PodView:
    """A training pod (0 is the master); with a code it has ended so many seconds ago, else it runs."""
    role = "master-0" if index == 0 else f"worker-{index - 1}"
    labels = {names.LABEL_ATTEMPT: str(attempt), **({names.LABEL_RANK: "0"} if index == 0 else {})}
    status: Object = {
        "phase": phase or ("Running" if code is None else "Failed" if code else "Succeeded"),
        "conditions": list(conditions) or [{"type": "Ready", "status": "True" if code is None else "False"}],
    }
    if code is not None:
        ended = {
            "exitCode": code,
            "reason": cause or ("Error" if code else "Completed"),
            "finishedAt": datetime.fromtimestamp(NOON.timestamp() - seconds_ago, UTC).isoformat(),
            "message": message,
        }
        status["containerStatuses"] = [{"name": names.TRAINER_CONTAINER, "state": {"terminated": ended}}]
    elif cause:
        status["reason"] = cause
    name = f"digits-{attempt}-{role}"
    metadata = {"name": name, "uid": f"pod-{name}", "namespace": "team", "labels": labels, **metadata}
    return view({"metadata": metadata, "spec": {"nodeName": f"node-{index}"}, "status": status})


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of a planned status; empty if it is not there."""
    return next((known for known in status.get("conditions", []) if known["type"] == kind), {})
