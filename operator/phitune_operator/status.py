"""Reading and comparing the status of a job; the columns of `kubectl get`. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from phitune_operator.clock import from_text


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition; empty if it was never set."""
    return next((known for known in status.get("conditions") or [] if known.get("type") == kind), {})


def is_true(status: Mapping[str, Any], kind: str) -> bool:
    """Whether the condition is said to hold."""
    return condition_of(status, kind).get("status") == "True"


def flipped_at(status: Mapping[str, Any], kind: str) -> datetime | None:
    """When the condition took its present value."""
    return from_text(condition_of(status, kind).get("lastTransitionTime"))


def duration_text(span: timedelta) -> str:
    """Write a duration as people read it: 45s, 4m10s, 3h05m, 2d04h."""
    seconds = round(span.total_seconds())
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def summary(
    status: Mapping[str, Any], *, nodes: int, gpus_per_node: int, processes_per_node: int
) -> dict[str, str]:
    """Return the columns of `kubectl get` that hold text."""
    progress: Mapping[str, Any] = status.get("progress") or {}
    is_over = status.get("phase") in ("Succeeded", "Failed")
    columns = {
        "gpus": f"{nodes}x{gpus_per_node}" if gpus_per_node else f"{nodes}x{processes_per_node} CPU",
        "progress": _steps(progress),
        "eta": None if is_over else progress.get("eta"),
        "loss": _number(progress.get("loss"), "{:.4f}"),
        "score": _number((status.get("evaluation") or {}).get("value"), "{:.3f}"),
        "imagesPerSecond": _number(progress.get("imagesPerSecond"), "{:.1f}"),
        "mfu": _number(progress.get("mfu"), "{:.0%}"),
        "lastCheckpoint": _number((status.get("lastCheckpoint") or {}).get("step"), "step {}"),
    }
    return {name: text for name, text in columns.items() if text}


def merge_patch(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a merge patch has to say to make `current` into `wanted`; empty if they are the same."""
    patch: dict[str, Any] = {name: None for name in current if name not in wanted}
    for name, value in wanted.items():
        known = current.get(name)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            if inner := merge_patch(known, value):
                patch[name] = inner
        elif known != value:
            patch[name] = value
    return patch


def _steps(progress: Mapping[str, Any]) -> str | None:
    if "step" not in progress or not progress.get("totalSteps"):
        return None
    return f"{progress['step']}/{progress['totalSteps']} ({progress.get('percent', 0):.0f}%)"


def _number(value: float | None, pattern: str) -> str | None:
    return None if value is None else pattern.format(value)
