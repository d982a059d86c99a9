"""Every field of the config refuses what it cannot take, by its path: a field without a row fails here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from harness.jobs import merged
from harness.train_configs import SMALL
from phitune_trainer.config import ConfigError, Group, TrainConfig, parse_config

NAME = "must be a name of letters, digits, dots, hyphens and underscores, parts divided by /"
PATH = "must be a path inside its folder, none of its parts beginning with a dot"
COUNT = (0, "must be at least 1, got 0")
MORE = (0.0, "must be more than 0, got 0.0")
FLAG = (1, "must be true or false, got 1")

REFUSED: dict[str, tuple[Any, str]] = {
    "apiVersion": ("phitune.dev/v1", "must be phitune.dev/train.v1alpha1, got"),
    "run.namespace": ("Team", "must be lower-case letters, digits and hyphens"),
    "run.name": ("../x", "must be lower-case letters, digits and hyphens"),
    "run.uid": ("a/b", "must be letters, digits and hyphens"),
    "run.workspace": ("", "at least 1 characters needed, got 0"),
    "model.name": ("a//b", NAME),
    "model.path": ("../../etc", PATH),
    "model.revision": ("-x", NAME),
    "model.init": ("huge", "must be tiny, got"),
    "task": ("docqva", "must be one of docvqa, nlvr2, hatefulMemes, ucf101, jsonl, got"),
    "data.path": ("/data", PATH),
    "data.name": ("a b", NAME),
    "data.revision": ("", NAME),
    "data.train": ("a/../b", PATH),
    "data.eval": (".hidden", PATH),
    "data.imageRoot": ("a//b", PATH),
    "data.generate": ("faces", "must be digits, got"),
    "method": ("dora", "must be one of full, lora, qlora, got"),
    "freezeVision": FLAG,
    "lora.rank": COUNT,
    "lora.alpha": MORE,
    "lora.dropout": (1.0, "must be less than 1, got 1.0"),
    "lora.vision": FLAG,
    "resumeFrom": ("../other", PATH),
    "training.epochs": COUNT,
    "training.maxSteps": (2.5, "must be a whole number, got 2.5"),
    "training.globalBatchSize": COUNT,
    "training.microBatchSize": COUNT,
    "training.learningRate": ("1e-3", 'must be a number, got "1e-3"'),
    "training.weightDecay": (-0.1, "must be at least 0, got -0.1"),
    "training.warmupSteps": (-1, "must be at least 0, got -1"),
    "training.schedule": ("step", "must be one of linear, cosine, constant, got"),
    "training.numCrops": (17, "must be at most 16, got 17"),
    "training.maxLength": COUNT,
    "training.packing": FLAG,
    "training.gradientCheckpointing": FLAG,
    "training.gradientCheckpointingForbidden": FLAG,
    "training.precision": ("fp8", "must be one of bf16, fp16, fp32, got"),
    "training.attention": ("paged", "must be one of flash, sdpa, eager, got"),
    "training.seed": (2**31, "must be at most 2147483647, got 2147483648"),
    "training.offloadOptimizer": FLAG,
    "world.nodes": COUNT,
    "world.processesPerNode": COUNT,
    "world.device": ("tpu", "must be one of cpu, cuda, got"),
    "checkpoint.everySteps": COUNT,
    "checkpoint.everyMinutes": (float("inf"), "must be a finite number, got Infinity"),
    "checkpoint.keep": COUNT,
    "evaluation.enabled": FLAG,
    "evaluation.everySteps": COUNT,
    "evaluation.maxSamples": COUNT,
    "evaluation.baseline": FLAG,
    "export.merged": FLAG,
    "export.adapter": FLAG,
}


def fields(group: type[Group] = TrainConfig, before: str = "") -> Iterator[tuple[str, bool, bool]]:
    """Every field of the config by its path: whether it is a group of others, and whether it is needed."""
    for field in group.model_fields.values():
        path = f"{before}{field.alias}"
        kinds = [field.annotation, *get_args(field.annotation)]
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Group)]
        yield path, bool(groups), field.is_required()
        for inner in groups:
            yield from fields(inner, f"{path}.")


LEAVES = [path for path, is_group, _ in fields() if not is_group]
GROUPS = [path for path, is_group, _ in fields() if is_group]
NEEDED = [path for path, _, is_needed in fields() if is_needed]


EVERY_GROUP = merged(
    SMALL,
    {
        "task": "docvqa",
        "data": {"generate": None, "eval": None},
        "method": "lora",
        "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "vision": False},
    },
)


def laid_over(*changes: tuple[str, Any]) -> dict[str, Any]:
    """A config with every group, and these values at these paths; None removes."""
    document = EVERY_GROUP
    for path, value in changes:
        change: Any = value
        for name in reversed(path.split(".")):
            change = {name: change}
        document = merged(document, change)
    return document


def problems(config: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_config(config)
    return refused.value.problems


def test_the_table_has_a_row_for_every_field() -> None:
    assert list(REFUSED) == LEAVES
    assert len(GROUPS) == 9
    parse_config(EVERY_GROUP)


@pytest.mark.parametrize("path", LEAVES)
def test_a_value_that_a_field_cannot_take_is_refused_by_its_path(path: str) -> None:
    value, said = REFUSED[path]
    (problem,) = problems(laid_over((path, value)))
    assert problem.startswith(f"{path}: {said}")


@pytest.mark.parametrize("path", [*LEAVES, *GROUPS])
def test_a_list_is_refused_wherever_it_stands(path: str) -> None:
    (problem,) = problems(laid_over((path, [])))
    assert problem.startswith(f"{path}: must be ")
    assert problem.endswith(", got []")


@pytest.mark.parametrize("path", GROUPS)
def test_a_field_that_does_not_exist_is_refused_in_every_group(path: str) -> None:
    assert problems(laid_over((f"{path}.colour", "red"))) == [f"{path}.colour: unknown field"]


@pytest.mark.parametrize("path", NEEDED)
def test_a_field_that_is_needed_is_missed_by_its_path(path: str) -> None:
    assert problems(laid_over((path, None))) == [f"{path}: required, but absent"]


def test_all_problems_of_a_document_are_said_at_once() -> None:
    found = problems(laid_over(*((path, value) for path, (value, _) in REFUSED.items())))
    assert [problem.partition(":")[0] for problem in found] == LEAVES
