"""The config that a pod reads: what it refuses, and the folders that follow from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.jobs import merged
from harness.train_configs import SMALL
from phitune_trainer.config import ConfigError, TrainConfig, load_config, parse_config

ON_TWO_NODES = merged(SMALL, {"world": {"nodes": 2}})
ADAPTERS = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "vision": False}


ONE_MODEL = "exactly one of name, path and init is needed"
ONE_LENGTH = "exactly one of epochs and maxSteps is needed"


def config(change: dict[str, Any] | None = None) -> dict[str, Any]:
    return merged(ON_TWO_NODES, change or {})


def problems(change: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_config(config(change))
    return refused.value.problems


def test_small_config_is_accepted_and_written_as_it_is_read(tmp_path: Path) -> None:
    train = parse_config(config())
    file = tmp_path / "train.yaml"
    file.write_text(train.to_yaml(), encoding="utf-8")
    assert load_config(file) == train


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": {"init": None}}, f"model: {ONE_MODEL}, got none"),
        (
            {"model": {"path": "a"}},
            f"model: {ONE_MODEL}, got path and init",
        ),
        (
            {"training": {"epochs": 1}},
            "training: exactly one of epochs and maxSteps is needed, got epochs and maxSteps",
        ),
        (
            {"training": {"maxSteps": None}},
            "training: exactly one of epochs and maxSteps is needed, got none",
        ),
        ({"checkpoint": {"everySteps": None}}, "checkpoint: exactly one of everySteps and everyMinutes"),
        ({"data": {"generate": None}}, "data: exactly one of path and generate"),
        ({"lora": ADAPTERS}, "lora: not with method full"),
        ({"method": "lora"}, "lora: needed with method lora"),
        (
            {"method": "lora", "freezeVision": True, "lora": {**ADAPTERS, "vision": True}},
            "lora.vision: not with freezeVision",
        ),
        ({"export": {"adapter": True}}, "export.adapter: method full trains no adapter"),
        ({"data": {"eval": None}}, "evaluation.enabled: needs data.eval"),
        (
            {"world": {"nodes": 3}},
            "training.globalBatchSize: 8 does not divide over 3 ranks x 2; use a multiple of 6",
        ),
        ({"training": {"attention": "flash"}}, "training.attention: flash needs precision bf16, got fp32"),
        ({"training": {"attention": "flash", "precision": "bf16"}}, "training.attention: flash needs a GPU"),
        ({"training": {"precision": "fp16"}}, "training.precision: fp16 needs a GPU"),
        ({"training": {"learningRate": "1e-3"}}, 'training.learningRate: must be a number, got "1e-3"'),
        ({"training": {"seed": 1.5}}, "training.seed: must be a whole number, got 1.5"),
        ({"training": {"numCrops": 17}}, "training.numCrops: must be at most 16, got 17"),
        ({"training": {"learning_rate": 1}}, "training.learning_rate: unknown field"),
        ({"task": "docqva"}, "task: must be one of docvqa, nlvr2, hatefulMemes, ucf101, jsonl"),
        ({"run": {"name": "../x"}}, "run.name: must be lower-case letters"),
        ({"model": {"init": None, "path": "../../etc"}}, "model.path: must be a path inside its folder"),
        ({"apiVersion": "phitune.dev/train.v2"}, "apiVersion: must be phitune.dev/train.v1alpha1"),
    ],
)
def test_problem_is_named_by_its_path(change: dict[str, Any], problem: str) -> None:
    (said, *more) = problems(change)
    assert said.startswith(problem)
    assert all(other.partition(":")[0] == said.partition(":")[0] for other in more)


def test_all_problems_are_said_together() -> None:
    assert len(problems({"task": "x", "method": "y", "training": {"seed": -1}, "world": {"nodes": 0}})) == 4


def test_disagreements_are_said_together() -> None:
    assert [problem.partition(":")[0] for problem in problems({"method": "lora", "world": {"nodes": 3}})] == [
        "lora",
        "training.globalBatchSize",
    ]


def test_nan_is_refused() -> None:
    assert problems({"training": {"weightDecay": float("nan")}}) == [
        "training.weightDecay: must be a finite number, got NaN"
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [\n", "line 2, column 1"),
        (b"\xff", "cannot be read"),
        (b"", "must be a map of fields, got null"),
        (b"- 1\n", "must be a map of fields"),
        (b"run: 5\n", "run: must be a map of fields, got 5"),
    ],
)
def test_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)) as refused:
        load_config(file)
    assert said in str(refused.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def parsed(change: dict[str, Any]) -> TrainConfig:
    return parse_config(config(change))


def test_folders_follow_from_the_config() -> None:
    train = parsed({"run": {"workspace": "/w"}})
    assert train.run_dir == Path("/w/runs/team/digits/01234567")
    assert train.data_dir == Path("/w/data/digits")
    assert train.model_dir.parent == Path("/w/models/init-tiny")


@pytest.mark.parametrize(
    ("change", "folder"),
    [
        ({"model": {"init": None, "path": "models/mine"}}, "/workspace/models/mine"),
        ({"model": {"init": None, "name": "org/model"}}, "/workspace/models/org--model/main"),
        ({"model": {"init": None, "name": "org/model", "revision": "v1"}}, "/workspace/models/org--model/v1"),
    ],
)
def test_model_folder(change: dict[str, Any], folder: str) -> None:
    assert parsed(change).model_dir == Path(folder)


def test_model_made_from_another_seed_is_another_folder() -> None:
    folders = {parsed({"training": {"seed": seed}}).model_dir for seed in (0, 1)}
    assert len(folders) == 2
    assert parsed({"training": {"seed": 1}}).model_dir in folders


def test_own_data_folder() -> None:
    assert parsed({"data": {"generate": None, "path": "data/mine"}}).data_dir == Path("/workspace/data/mine")
    docvqa = {"task": "docvqa", "data": {"generate": None, "eval": None}}
    assert parsed(docvqa).data_dir == Path("/workspace/data/docvqa/main")
    named = {"name": "team/copy", "revision": "refs/pr/1", "generate": None}
    copy = parsed({**docvqa, "data": named, "model": {**named, "init": None}})
    assert copy.data_dir == Path("/workspace/data/team--copy/refs--pr--1")


def test_accumulation_fills_the_global_batch() -> None:
    assert parsed({}).accumulation_steps == 2
    assert parsed({}).world.size == 2


def test_config_needs_no_torch() -> None:
    code = "import sys, phitune_trainer.config, phitune_trainer.exit_codes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
