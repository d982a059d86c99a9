"""The page on fidelity names tests that are there."""

import ast
import re
from pathlib import Path

from phitune_trainer.model.files import COMPANIONS

TESTS = Path(__file__).parents[2]
PAGE = (TESTS.parent / "docs" / "fidelity.md").read_text(encoding="utf-8")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).is_file() or name not in functions(TESTS / file)
    ]
    assert len(named) > 40
    assert missing == []


def test_each_of_the_eleven_bugs_has_a_test() -> None:
    section = PAGE.partition("## The recipe's eleven bugs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+)\. (.*)$", section, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 12))
    assert all("::test_" in row for _, row in rows)


def test_the_files_of_a_saved_model_are_those_that_the_page_lists() -> None:
    section = PAGE.partition("## What a saved model consists of")[2].partition("\n## ")[0]
    assert set(COMPANIONS) == set(re.findall(r"`([\w.]+\.\w+|LICENSE)`", section))
