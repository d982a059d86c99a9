"""Builders of FineTuneJobs: a test names what it is about, everything else is small and quick."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from harness.cluster import REPOSITORY, Object

NUM_STEPS = 100
"""Steps of a job that is long enough to disturb."""
SMALL: Object = {
    "model": {"init": "tiny"},
    "task": "jsonl",
    "data": {"generate": "digits"},
    "method": "full",
    "training": {"maxSteps": 4, "globalBatchSize": 8, "learningRate": 1e-3, "warmupSteps": 0},
    "resources": {"nodes": 2, "gpusPerNode": 0, "cpu": "200m", "memory": "2Gi"},
    "storage": {"size": "1Gi"},
    "evaluation": {"enabled": False},
    "export": {"merged": False},
}
"""Four steps of a tiny model on two pods, on CPU, without scores."""


def finetunejob(name: str, spec: Mapping[str, Any] | None = None) -> Object:
    """A FineTuneJob like SMALL but for the given fields; a field given as None is left out."""
    return {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": merged(SMALL, spec or {}),
    }


def long_enough_to_disturb(spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fields of a job that trains for a minute or so and saves every five steps."""
    slow = {
        "training": {"maxSteps": NUM_STEPS, "globalBatchSize": 32},
        "checkpoint": {"everySteps": 5, "keep": 2},
    }
    return merged(slow, spec or {})


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, group by group; None removes."""
    result = deepcopy(dict(base))
    for field, value in change.items():
        if value is None:
            result.pop(field, None)
        elif isinstance(value, Mapping) and isinstance(result.get(field), dict):
            result[field] = merged(result[field], value)
        else:
            result[field] = deepcopy(value)
    return result


def example(name: str) -> str:
    """The text of a file in examples/."""
    return (REPOSITORY / "examples" / name).read_text(encoding="utf-8")
