"""A run is one thing: a later start with another config must not continue it under the same name."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.run_layout import RunLayout, write_atomically

MAY_CHANGE = (
    "run.workspace",
    "world.",
    "checkpoint.",
    "evaluation.",
    "export.",
    "training.microBatchSize",
    "training.gradientCheckpointing",
    "training.attention",
)
"""What a later start may change: how and where it computes, what it keeps; not what it computes."""


def keep_config(layout: RunLayout, config: TrainConfig) -> None:
    """Record the config of a run's first start; UserError names each key that a later one has changed."""
    if not layout.config.is_file():
        layout.path.mkdir(parents=True, exist_ok=True)
        write_atomically(layout.config, config.to_yaml())
        return
    before = dict(_leaves(yaml.safe_load(layout.config.read_text(encoding="utf-8"))))
    now = dict(_leaves(config.model_dump(mode="json", by_alias=True, exclude_none=True)))
    changed = [
        f"{key}: was {before.get(key, 'absent')}, now {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise UserError(
            f"{layout.path} holds a run with another config; change it back, or start a new run (--fresh):\n"
            + "\n".join(changed)
        )


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
