"""A score as people are told of it, in the log and at the end of a run."""

from collections.abc import Mapping
from typing import Any


def first_weights(resume_from: object) -> str:
    """What to call the weights that a run begins with, by the `resumeFrom` of its config."""
    return "the base model" if resume_from is None else "the weights it starts with"


def score_words(scores: Mapping[str, Any]) -> str:
    """Such as "anls 0.8246 (0.801 to 0.846), 0.013 before, of 200 samples".

    `scores`: metric, value, low and high of its 95% interval, samples, and the base model's score as baseline
    or None. Of the base model itself, nothing is said of before.
    """
    before = scores["baseline"]
    is_base = before is None or scores["step"] == 0
    than = "" if is_base else f", {before:.3f} before"
    return f"{scores['metric']} {_estimate(scores)}{than}, of {scores['samples']} samples"


def detail_words(metrics: Mapping[str, Any]) -> list[str]:
    """The other scores of a metrics.json, and why one is missing, a line each."""
    return [*(f"{name} {_estimate(found)}" for name, found in metrics["details"].items()), *metrics["notes"]]


def _estimate(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.4f} ({found['low']:.3f} to {found['high']:.3f})"
