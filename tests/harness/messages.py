"""What the product can say: the texts in its source, read without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("operator/phitune_operator", "trainer/phitune_trainer", "cli/phitune_cli", "hack")
"""Where what a user sees is written."""

GAPS = {
    "\0": r".*",
    "\1": r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?%?",
    "\2": r"(?:'.*'|\".*\"|\[.*\]|\(.*\)|\{.*\}|b'.*'|-?[\d.]+|None|True|False)",
}
"""What stands where a text has a value, and what that may become: anything, a number, what `repr` makes."""
ANYTHING, NUMBER, REPR = GAPS
_GAP = re.compile(f"([{''.join(GAPS)}])")

Constants = Mapping[str, Any]


def says(templates: Iterable[str], message: str) -> list[str]:
    """The texts that become this message, all of it, with some values; values are the smaller part of it.

    Of a text of several lines, one line is enough.
    """
    lines = {line.strip() for one in templates for line in one.split("\n")}
    found = [line for line in lines if len(message) <= 2.5 * _fixed(line)]
    return [line for line in found if _pattern(line).fullmatch(message)]


@cache
def _fixed(template: str) -> int:
    """How many characters of it are no values."""
    return len(_GAP.sub("", template))


def texts(source: str) -> Iterator[str]:
    """Every text of a Python file, with a gap for each value; constants of the file are no values."""
    tree = ast.parse(source)
    yield from _texts(tree, constants(tree))


def _texts(tree: ast.Module, known: Constants) -> Iterator[str]:
    """The same with all constants that are known; docstrings and comments are no texts."""
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
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and _GAP.sub(
            "", text := _text(node, known)
        ):
            yield text


def constants(tree: ast.Module) -> dict[str, Any]:
    """The texts and numbers that a file gives a name, once."""
    found: dict[str, Any] = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                try:
                    found[name] = ast.literal_eval(value)
                except ValueError:
                    found.pop(name, None)
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


@cache
def texts_of_product(repository: Path) -> frozenset[str]:
    """Every text of the product, and the lines of its shell scripts in double quotes."""
    trees = {
        _module(file, (repository / package).parent): ast.parse(file.read_text(encoding="utf-8"))
        for package in PACKAGES
        for file in (repository / package).rglob("*.py")
    }
    named = {module: constants(tree) for module, tree in trees.items()}
    found = {
        text
        for module, tree in trees.items()
        for text in _texts(tree, {**_imported(tree, named), **named[module]})
    }
    for script in ("hack/find-python", "hack/setup"):
        found.update(re.findall(r'echo "([^"]+)"', (repository / script).read_text(encoding="utf-8")))
    return frozenset(found)


def _module(file: Path, top: Path) -> str:
    return ".".join(file.relative_to(top).with_suffix("").parts)


def _imported(tree: ast.Module, named: Mapping[str, Constants]) -> Constants:
    """The constants that a file takes from others by name."""
    return {
        alias.asname or alias.name: named[node.module][alias.name]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module in named
        for alias in node.names
        if alias.name in named[node.module]
    }


def _text(node: ast.expr, known: Constants) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, known) + _text(right, known)
        case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
            return _value(value, conversion, "" if spec is None else _text(spec, known), known)
        case ast.Name(id=name) if isinstance(known.get(name), str):
            return str(known[name])
    return ANYTHING


def _value(value: ast.expr, conversion: int, spec: str, known: Constants) -> str:
    """What stands for a value in a text, or the value itself if it is a constant."""
    if isinstance(value, ast.Name) and value.id in known and not _GAP.search(spec):
        plain = known[value.id]
        return format(repr(plain) if conversion == ord("r") else plain, spec)
    if conversion == ord("r"):
        return REPR
    return NUMBER if spec and spec[-1] in "dfgeE%," else ANYTHING


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = _GAP.split(re.sub(f"{ANYTHING}+", ANYTHING, template))
    return re.compile("".join(GAPS.get(part) or re.escape(part) for part in parts), re.DOTALL)
