"""Values that a field refuses: with the rows of harness.refused, at least one for each field of the API."""

from __future__ import annotations

from typing import Any

from harness.cluster import Object
from harness.documents import Refused, job
from harness.jobs import merged

MAP, LIST, BOOLEAN = "a map of fields, got", "must be a list", "true or false"

_ROWS: list[tuple[str, Any, str, Object]] = [
    # field, value, a part of what is said, and what the job says else
    ("model.name", "two words", "letters, digits, dots", {"model": {"init": None}}),
    ("model.path", "../elsewhere", "inside its folder", {"model": {"init": None}}),
    ("model.init", "huge", "must be tiny", {}),
    ("training.maxSteps", 0, "at least 1, got 0", {}),
    ("training.weightDecay", 1.5, "at most 1", {}),
    ("training.warmupSteps", -1, "at least 0", {}),
    ("training.schedule", "step", "linear, cosine, constant", {}),
    ("training.maxLength", 8, "at least 16", {}),
    ("training.packing", "yes", BOOLEAN, {}),
    ("training.gradientCheckpointing", "sometimes", "auto, always, never", {}),
    ("resources", "two", MAP, {}),
    ("resources.gpusPerNode", 17, "at most 16", {}),
    ("resources.tolerations", {"key": "a"}, LIST, {}),
    ("resources.tolerations[*].operator", "Is", "Exists, Equal", {}),
    ("resources.tolerations[*].effect", "NoRun", "NoSchedule, PreferNoSchedule, NoExecute", {}),
    ("resources.nodeSelector", ["zone"], "must be a map", {}),
    ("resources.priorityClassName", "High", "name of a Kubernetes object", {}),
    ("storage.retain", 1, BOOLEAN, {}),
    ("checkpoint", 5, MAP, {}),
    ("checkpoint.everyMinutes", 0, "more than 0", {}),
    ("evaluation", True, MAP, {}),
    ("evaluation.enabled", "no", BOOLEAN, {}),
    ("evaluation.everySteps", 0, "at least 1", {}),
    ("evaluation.maxSamples", 0, "at least 1", {}),
    ("export", "merged", MAP, {}),
    ("export.merged", "true", BOOLEAN, {}),
    ("runPolicy", [], MAP, {}),
    ("runPolicy.suspend", "false", BOOLEAN, {}),
    ("runPolicy.ttlAfterFinished", "1 day", "a duration", {}),
    ("queueName", "Team A", "name of a Kubernetes object", {}),
    ("imagePullSecrets", {"name": "pull"}, LIST, {}),
    ("imagePullSecrets[*].name", "Pull", "name of a Kubernetes object", {}),
    ("podTemplate", "small", MAP, {}),
    ("podTemplate.annotations", {"a": "x" * 1025}, "at most 1024", {}),
    ("podTemplate.affinity", [], MAP, {}),
    ("resources.priorityClassName", "system-node-critical", "of the cluster's own pods", {}),
    ("resources.cpu", "10001", 'at most "10k"', {}),
    ("resources.memory", "1e99", 'at most "1Pi"', {}),
    ("storage.size", "9999999999999Ti", 'at most "1Ei"', {}),
    ("podTemplate.annotations", {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}, "confines", {}),
    ("env", [{"name": f"A{one}", "value": "x" * 8192} for one in range(9)], "65,536 characters", {}),
    ("env[*]", {"name": "A", "value": "a\0b"}, "without control characters", {}),
    ("podTemplate.tolerations", [{"operator": "Exists"}] * 33, "at most 32", {}),
    ("podTemplate.tolerations[*].operator", "Is", "Exists, Equal", {}),
    ("podTemplate.tolerations[*].effect", "NoRun", "NoSchedule, PreferNoSchedule, NoExecute", {}),
    ("podTemplate.schedulerName", "Volcano", "name of a Kubernetes object", {}),
]


_INSIDE = {
    ("podTemplate.annotations", "at most 1024"): ".a",
    ("env[*]", "without control characters"): ".value",
}
"""What of a value is named, where it is not the whole."""


def nested(path: str, value: Any) -> Object:
    """A spec in which the field has the value; [*] makes a list of one entry."""
    for name in reversed(path.split(".")):
        value = {name.removesuffix("[*]"): [value] if name.endswith("[*]") else value}
    return dict(value)


FIELDS = [
    Refused(
        f"{path} {str(value)[:30]}",
        job(merged(base, nested(path, value))),
        f"spec.{path.replace('[*]', '[0]')}{_INSIDE.get((path, message), '')}",
        message,
    )
    for path, value, message, base in _ROWS
]
