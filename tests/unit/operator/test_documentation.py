"""docs/operator.md has a row for whatever the operator can say: every reason, every metric, every phase."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import phitune_operator
from harness.cluster import REPOSITORY
from phitune_operator import attempts, names, refusals, remedies
from phitune_operator.metrics import PHASES, Metrics
from phitune_operator.policies.acceptance import OPERATOR_ERROR
from phitune_operator.policies.fault import KINDS, OF_VOLUME, OUT_OF_GPU_MEMORY
from phitune_operator.policies.half_placed import TAKEN_BACK
from phitune_operator.policies.image_pull import NO_IMAGE
from phitune_operator.policies.prepare import DOUBTED, SHARED
from phitune_operator.policies.queue import QUEUED
from phitune_operator.policies.running import TRAINING
from phitune_operator.queue import WorkQueue
from phitune_operator.store import Store

PAGE = (REPOSITORY / "docs" / "operator.md").read_text(encoding="utf-8")
PACKAGE = Path(*phitune_operator.__path__)
REASON_AT = {"BlockedError": 0, "set_condition": 2, "fail": 0, "_end": 1}
"""Which argument of a call is a reason; that of others is called so."""


def rows(title: str) -> set[str]:
    """First cells of the table under a title."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def reasons_written_out() -> Iterator[str]:
    """Every reason that stands as a text in a call that takes one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                given = node.args[REASON_AT[name] : REASON_AT[name] + 1] if name in REASON_AT else []
                given += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                parts = (part for value in given for part in ast.walk(value))
                yield from (str(part.value) for part in parts if isinstance(part, ast.Constant))


def test_every_reason_has_a_row_and_no_row_is_of_another_time() -> None:
    named = {*refusals.REASONS, *remedies.REMEDIES, *TAKEN_BACK, NO_IMAGE, OPERATOR_ERROR}
    named |= {attempts.CREATING, attempts.STOPPING, names.REASON_NO_ROOM, QUEUED, SHARED, DOUBTED, TRAINING}
    said = {reason for reason in reasons_written_out() if re.fullmatch(r"[A-Z][A-Za-z]+", reason)}
    assert len(said) > 25
    assert rows("Reasons") == said | named


def conditions_written_out() -> Iterator[tuple[str, str]]:
    """Conditions and the reasons that stand as a text where they are set."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "set_condition" and isinstance(node.args[0], ast.Attribute):
                condition = str(getattr(names, node.args[0].attr))
                texts = (part.value for part in ast.walk(node.args[2]) if isinstance(part, ast.Constant))
                yield from ((condition, str(reason)) for reason in texts)


def test_row_of_a_reason_names_the_conditions_that_have_it() -> None:
    cells = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", PAGE.split("## Reasons\n")[1], re.MULTILINE)
    conditions = {reason: set(of.split(", ")) for reason, of in cells}
    said = set(conditions_written_out())
    assert len(said) > 8
    # The end of an attempt is told by what it is called; an error of the user's is doubted at first.
    said |= {("Restarting", reason) for reason in (*KINDS, *TAKEN_BACK, "UserError")}
    said |= {("Failed", reason) for reason in ("UserError", OUT_OF_GPU_MEMORY, *OF_VOLUME)}
    assert [pair for pair in sorted(said) if pair[0] not in conditions[pair[1]]] == []


def test_every_metric_has_a_row() -> None:
    async def text() -> str:
        metrics = Metrics()
        metrics.watch(Store(), WorkQueue())
        return metrics.text().decode()

    described = re.findall(r"^# TYPE (\w+) ", asyncio.run(text()), re.MULTILINE)
    shown = {name for name in described if not name.endswith("_created")}
    assert len(shown) == 6
    assert rows("Metrics") == shown


def test_every_phase_is_in_the_picture() -> None:
    picture = PAGE.split("```")[1]
    assert [phase for phase in PHASES if phase not in picture] == ["Suspended"], "it is reached from each"
