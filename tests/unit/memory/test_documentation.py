"""docs/benchmarks.md has the numbers that the memory model gives, beside those that the recipe publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
import recipe_memory

from phitune_trainer.memory import GPUS


def test_page_has_the_table_that_the_command_writes() -> None:
    assert recipe_memory.main(["--check"]) == 0


def test_page_with_another_number_is_named_and_then_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = recipe_memory.PAGE.read_text(encoding="utf-8")
    page = tmp_path / "benchmarks.md"
    page.write_text(right.replace("| 42 | 32 | 19 |", "| 42 | 32 | 18 |"), encoding="utf-8")
    assert page.read_text(encoding="utf-8") != right
    assert recipe_memory.main(["--check"], page) == 1
    assert (
        f"{page}: differs from the memory model; run python hack/recipe_memory.py" in capsys.readouterr().err
    )
    assert recipe_memory.main([], page) == 0
    assert page.read_text(encoding="utf-8") == right


def test_page_without_a_place_for_the_table_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n", encoding="utf-8")
    assert recipe_memory.main([], page) == 1
    assert "there is no place for the table" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "# Benchmarks\n"


def test_every_row_of_the_recipe_is_in_the_table() -> None:
    rows = [line for line in recipe_memory.table() if line[2:].startswith(("full", "LoRA", "QLoRA"))]
    assert len(rows) == len(recipe_memory.PUBLISHED) == 10
    assert sum(row.v100 is not None for row in recipe_memory.PUBLISHED) == 5


def test_page_names_every_gpu_that_is_known() -> None:
    page = recipe_memory.PAGE.with_name("memory.md").read_text(encoding="utf-8").replace("\n", " ")
    listed = page.partition("GPUs that are known by name: ")[2].partition(";")[0]
    assert set(listed.split(", ")) == set(GPUS)
