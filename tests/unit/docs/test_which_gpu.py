"""docs/gpus.md has what the memory model says of each method on each GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import which_gpu

from phitune_trainer.memory import GPUS, find_gpu

PAGE = which_gpu.PAGE.read_text(encoding="utf-8")


def test_page_has_the_tables_that_the_command_writes() -> None:
    assert which_gpu.main(["--check"]) == 0


def test_page_that_says_something_else_is_noticed_and_then_mended(tmp_path: Path) -> None:
    page = tmp_path / "gpus.md"
    page.write_text(PAGE.replace("| 2 a pass", "| 3 a pass"), encoding="utf-8")
    assert which_gpu.main(["--check"], page) == 1
    assert which_gpu.main([], page) == 0
    assert page.read_text(encoding="utf-8") == PAGE


def test_every_method_has_every_gpu() -> None:
    rows = re.findall(r"^\| ([A-Z][A-Z0-9-]*[0-9](?:GB|S)?) \|", PAGE, re.MULTILINE)
    assert rows == list(GPUS) * 4


@pytest.mark.parametrize(
    ("method", "gpu", "one", "eight"),
    [
        ("full", "H100", "optimizer on the host", "kept"),
        ("full", "RTX-4090", "with 2 GPUs in all", "recomputed"),
        ("full", "V100-16GB", "with 8 GPUs in all", "optimizer on the host"),
        ("LoRA", "T4", "recomputed", "recomputed"),
        ("QLoRA", "V100-32GB", "no: below compute capability 7.5", "no: below compute capability 7.5"),
    ],
)
def test_a_row_says_what_is_done_or_what_would_fit(method: str, gpu: str, one: str, eight: str) -> None:
    found = find_gpu(gpu)
    assert found is not None
    *_, first, second = which_gpu.cells(which_gpu.METHODS[method], found)
    assert one in first
    assert eight in second


def test_the_short_list_agrees_with_the_tables() -> None:
    small = ("RTX-3090", "RTX-4090", "A10", "L4", "T4", "V100-16GB")
    table = PAGE.partition("### full\n")[2].partition("\n### ")[0]
    alone = {
        row.split(" | ")[0][2:]: row.split(" | ")[3] for row in table.splitlines() if row.startswith("| ")
    }
    assert {gpu for gpu in GPUS if alone[gpu].startswith("no")} == set(small)
