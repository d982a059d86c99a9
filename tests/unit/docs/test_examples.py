"""examples/: one for each thing that the recipe does, each with what it needs, which is enough for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_cli.estimate_cmd import resolved_for
from phitune_cli.one_job import read_one_job
from phitune_trainer.memory import GPUS

FILES = sorted((REPOSITORY / "examples").glob("*.yaml"))


SMALLEST = {16: "T4", 24: "RTX-4090", 32: "V100-32GB", 40: "A100-40GB", 48: "RTX-8000", 80: "A100-80GB"}
"""GPUs that are sold with so many GB; their drivers report a little less."""


def spec_of(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]


METHODS = {("full", False), ("full", True), ("lora", False), ("qlora", False)}
"""And whether the vision part is frozen."""


@pytest.mark.parametrize("task", ["docvqa", "nlvr2", "hatefulMemes", "ucf101"])
def test_there_is_one_for_each_method_of_each_task_of_the_recipe(task: str) -> None:
    specs = [spec_of(file) for file in FILES]
    assert {
        (spec["method"], spec.get("freezeVision", False)) for spec in specs if spec["task"] == task
    } == METHODS


def test_there_is_one_for_each_method_of_data_of_ones_own_and_each_size_of_cluster() -> None:
    specs = [spec_of(file) for file in FILES]
    assert {spec["method"] for spec in specs if spec["task"] == "jsonl"} == {"full", "lora", "qlora"}
    sizes = {(spec["resources"]["nodes"], spec["resources"]["gpusPerNode"]) for spec in specs}
    assert {(1, 0), (2, 0), (1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8)} == sizes


@pytest.mark.parametrize(
    "file", [file for file in FILES if not file.stem.startswith("digits")], ids=lambda file: file.stem
)
def test_the_guide_to_the_tasks_names_it(file: Path) -> None:
    guide = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")
    assert file.stem in re.findall(r"[a-z][a-z0-9-]+", guide)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_begins_with_what_it_needs_and_how_it_is_applied(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    comment = text.partition("\napiVersion")[0]
    assert re.search(r"\bGPUs? of|\bCPUs?\b", comment.replace("\n# ", " "))
    assert f"kubectl apply -f examples/{file.name}" in comment
    assert yaml.safe_load(text)["metadata"]["name"] == file.stem


@pytest.mark.parametrize("file", [file for file in FILES if spec_of(file)["resources"]["gpusPerNode"]])
def test_the_gpus_that_it_says_it_needs_are_large_enough(file: Path) -> None:
    words = " ".join(line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines())
    needed = re.search(r"GPUs? of (\d+) GB", words)
    assert needed, "it says how large its GPUs have to be"
    memory = resolved_for(read_one_job(str(file)), GPUS[SMALLEST[int(needed[1])]]).memory
    assert memory is not None
    assert memory.fits
