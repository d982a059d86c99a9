"""A run is one thing: a later start with another config or other data must not continue it as the same."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from phitune_trainer.config import ConfigError, TrainConfig, parse_config
from phitune_trainer.errors import UserError
from phitune_trainer.run_layout import RunLayout, make_folders, write_atomically
from phitune_trainer.yaml_reader import YamlError, read_document

if TYPE_CHECKING:  # it imports torch, and the command line reads this module before it starts anything
    from phitune_trainer.data.dataset import TrainingSamples

MAY_CHANGE = (
    "run.workspace",
    "world.",
    "checkpoint.",
    "evaluation.",
    "export.",
    "training.microBatchSize",
    "training.packing",
    "training.gradientCheckpointing",
    "training.attention",
    "training.offloadOptimizer",
)
"""What a later start may change: how and where it computes, what it keeps; not what it computes."""


def keep_config(layout: RunLayout, config: TrainConfig) -> None:
    """Record the config of a run's first start; UserError names each key that a later one has changed."""
    if not layout.config.is_file():
        make_folders(layout.path)
        write_atomically(layout.config, config.to_yaml())
        return
    try:
        before = as_read_now(read_document(layout.config.read_text(encoding="utf-8")))
    except YamlError as error:
        raise UserError(
            f"{layout.config} is damaged ({error}); restore it, or start a new run (--fresh)"
        ) from error
    changed = [line for line in changed_keys(before, plain(config)) if not line.startswith(MAY_CHANGE)]
    if changed:
        raise UserError(
            f"{layout.path} holds a run with another config; change it back, or start a new run (--fresh):\n"
            + "\n".join(changed)
        )


def plain(config: TrainConfig) -> dict[str, Any]:
    """A config as plain data with the keys that users know."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


def as_read_now(document: Any) -> Mapping[str, Any]:
    """A config of some version, with the defaults of the keys that it did not know yet.

    As it stands where this version cannot read it: what is in the way is then a changed key.
    """
    try:
        return plain(parse_config(document))
    except ConfigError:
        return document if isinstance(document, Mapping) else {}


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each key in which two configs as plain data differ, in the order of the alphabet."""
    was, is_now = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{key}: was {was.get(key, 'absent')}, now {is_now.get(key, 'absent')}"
        for key in sorted(was.keys() | is_now.keys())
        if was.get(key) != is_now.get(key)
    ]


def keep_data(layout: RunLayout, samples: "TrainingSamples", *, is_continued: bool) -> None:
    """Record what tells the training data from changed data.

    UserError names what has changed where the run continues from a checkpoint (`is_continued`): which samples
    a step takes follows from their number, so that some would be trained twice and others never.
    """
    now = dict(samples.identity())
    if is_continued and layout.data.is_file():
        before = json.loads(layout.data.read_text(encoding="utf-8"))
        changed = [
            f"{name}: was {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise UserError(
                f"{layout.path} holds a run whose training data has changed since; put the data back, or "
                "start a new run (--fresh):\n" + "\n".join(changed)
            )
    write_atomically(layout.data, json.dumps(now, indent=1))


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
