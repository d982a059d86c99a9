"""The guide to the tasks has the hyperparameters that the operator fills in, and jobs that there are."""

from __future__ import annotations

import re

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_operator.recipe import RECIPE, Row
from phitune_trainer.config import Method, Task

SECTIONS: dict[str, Task] = {"DocVQA": "docvqa", "NLVR2": "nlvr2", "Hateful Memes": "hatefulMemes"}
METHODS: dict[str, tuple[Method, bool]] = {
    "full": ("full", False),
    "full, vision frozen": ("full", True),
    "lora": ("lora", False),
    "qlora": ("qlora", False),
}


def shown() -> list[tuple[Task, Method, bool, Row, str]]:
    """Rows of the guide's tables: task, method, whether vision is frozen, hyperparameters, job."""
    text = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")
    rows = []
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        for line in re.findall(r"^\| (.+) \|$", body, re.MULTILINE):
            method, rate, epochs, batch, lora, _, job = (cell.strip() for cell in line.split("|"))
            if method in METHODS:
                rank, _, alpha = lora.partition(" / ")
                adapters = (int(rank), float(alpha)) if alpha else None
                row = Row(float(rate), int(epochs), int(batch), adapters)
                rows.append((SECTIONS[title], *METHODS[method], row, job))
    return rows


def test_every_row_of_the_recipe_is_there_with_its_numbers() -> None:
    assert {(task, method, frozen): row for task, method, frozen, row, _ in shown()} == RECIPE


@pytest.mark.parametrize(
    ("task", "method", "frozen", "job"),
    [(task, method, frozen, job) for task, method, frozen, _, job in shown()],
)
def test_a_row_names_a_job_of_its_task_and_method(task: Task, method: Method, frozen: bool, job: str) -> None:
    spec = yaml.safe_load((REPOSITORY / f"examples/{job}.yaml").read_text(encoding="utf-8"))["spec"]
    assert (spec["task"], spec["method"], spec.get("freezeVision", False)) == (task, method, frozen)
