"""Builders of train configs: a test names what it is about, everything else is small and quick."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from harness.jobs import merged
from phitune_trainer.config import TrainConfig, parse_config

SMALL: dict[str, Any] = {
    "run": {"namespace": "team", "name": "digits", "uid": "01234567-89ab"},
    "model": {"init": "tiny"},
    "task": "jsonl",
    "data": {"generate": "digits", "eval": "eval.jsonl"},
    "method": "full",
    "training": {
        "maxSteps": 10,
        "globalBatchSize": 8,
        "microBatchSize": 2,
        "learningRate": 1e-3,
        "weightDecay": 0.01,
        "warmupSteps": 0,
        "schedule": "linear",
        "numCrops": 1,
        "maxLength": 512,
        "packing": True,
        "gradientCheckpointing": False,
        "precision": "fp32",
        "attention": "sdpa",
        "seed": 0,
    },
    "world": {"nodes": 1, "processesPerNode": 1, "device": "cpu"},
    "checkpoint": {"everySteps": 50, "keep": 2},
    "evaluation": {"enabled": True, "baseline": True},
    "export": {"merged": True, "adapter": False},
}
"""Ten steps of a model and data that are made, on one CPU; scored and exported."""


def train_config(workspace: Path, *changes: Mapping[str, Any]) -> TrainConfig:
    """A config over a volume like SMALL but for the given fields, a later change over an earlier one.

    A field given as None is left out.
    """
    return parse_config(reduce(merged, changes, merged(SMALL, {"run": {"workspace": str(workspace)}})))
