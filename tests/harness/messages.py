"""What the product can say: the texts in its source, read without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("operator/phitune_operator", "trainer/phitune_trainer", "cli/phitune_cli", "hack")
"""Where what a user sees is written."""
GAP = "\0"
"""Where a text has a value."""


def says(templates: Iterable[str], message: str) -> list[str]:
    """The texts that become this message, all of it, with some values; values are the smaller part of it.

    Of a text of several lines, one line is enough.
    """
    lines = {line.strip() for one in templates for line in one.split("\n")}
    found = [line for line in lines if len(message) <= 2.5 * len(line.replace(GAP, ""))]
    return [line for line in found if _pattern(line).fullmatch(message)]


def texts(source: str) -> Iterator[str]:
    """Every text of a Python file, with GAP for each value; docstrings and comments are none."""
    tree = ast.parse(source)
    passed_over = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if id(node) in passed_over:
            continue
        if isinstance(node, ast.JoinedStr):
            passed_over.update(map(id, node.values))
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and (text := _text(node)).strip(GAP):
            yield text


@cache
def texts_of_product(repository: Path) -> frozenset[str]:
    """Every text of the product, and the lines of its shell scripts in double quotes."""
    found = {
        text
        for package in PACKAGES
        for file in (repository / package).rglob("*.py")
        for text in texts(file.read_text(encoding="utf-8"))
    }
    for script in ("hack/find-python", "hack/setup"):
        found.update(re.findall(r'echo "([^"]+)"', (repository / script).read_text(encoding="utf-8")))
    return frozenset(found)


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
    return GAP


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(f"{GAP}+", template))), re.DOTALL)
