"""The learning rate of a step, as a formula."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["linear", "cosine", "constant"],
) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    With w warm-up steps of t in all, and p = (step - w) / (t - w) the share done after the warm-up::

        step < w    peak * step / w
        linear      peak * (1 - p)
        cosine      peak * (1 + cos(pi * p)) / 2
        constant    peak

    As the published recipe counts, the first step of a warm-up has rate 0, and the rate would reach 0 only
    at step t, which is never taken. A run shorter than its warm-up never reaches the peak.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    match schedule:
        case "linear":
            return peak * max(0.0, 1 - done)
        case "cosine":
            return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2
        case "constant":
            return peak


def schedule_in_words(schedule: str, peak: float, warmup_steps: int, *, total_steps: int) -> str:
    """Where the learning rate goes, and whether this run is long enough for it to get there."""
    said = f"{schedule}, peak {peak:g} after {warmup_steps} warm-up steps"
    if 0 < total_steps <= warmup_steps:
        return f"{said}, and the run ends before that: a lower training.warmupSteps gets there"
    return said
