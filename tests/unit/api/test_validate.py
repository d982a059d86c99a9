"""What `phitune render` and the operator refuse, and how they say it.

The API server is asked the same by the integration tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.documents import ACCEPTED, Refused, job, named
from harness.fuzz import documents
from harness.refused import REFUSED
from phitune_operator.defaults import resolve
from phitune_operator.rule import Rule
from phitune_operator.rules import RULES
from phitune_operator.schema import object_schema, walk
from phitune_operator.validate import Problem, read_job, validate
from phitune_trainer.config import parse_config
from phitune_trainer.yaml_reader import read_document


def said(document: object) -> list[str]:
    return [str(problem) for problem in validate(document)]


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_good_document_has_no_problem(document: dict[str, Any]) -> None:
    assert said(document) == []


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.id)
def test_bad_document_is_refused_at_its_field(row: Refused) -> None:
    problems = validate(row.document)
    assert problems, "accepted"
    assert problems[0].path == row.path
    assert row.message in problems[0].message


def test_every_field_has_a_row_of_what_it_refuses() -> None:
    rows = {re.sub(r"\[\d+\]", "[*]", row.path) for row in REFUSED}
    fields = [path for path, _ in walk(object_schema()["properties"]["spec"], "spec")]
    assert len(fields) > 100
    assert [path for path in fields if path not in rows] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}: {rule.message[:30]}")
def test_every_rule_is_broken_by_a_row_of_the_table(rule: Rule) -> None:
    assert rule.holds is None or problem_of(rule) in problems_of_the_table()


@cache
def problems_of_the_table() -> set[tuple[str, str]]:
    return {without_indices(problem) for row in REFUSED for problem in validate(row.document)}


def problem_of(rule: Rule) -> tuple[str, str]:
    return rule.path, rule.message.partition(";")[0] if rule.explain is None else ""


def without_indices(problem: Problem) -> tuple[str, str]:
    is_explained = "does not divide" in problem.message
    return re.sub(r"\[\d+\]", "[*]", problem.path), "" if is_explained else problem.message.partition(";")[0]


CLAIM_AND_SIZE = "not together with spec.storage.size; use a claim that exists, or have one made"


def test_all_problems_are_said_at_once() -> None:
    document = job({"lora": {"rank": 0}, "training": {"epochs": 1.5}, "storage": {"claimName": "a"}})
    assert said(document) == [
        "spec.lora.rank: must be at least 1, got 0",
        "spec.training.epochs: must be a whole number, got 1.5",
        "spec.lora: not with method full; remove it, or use method lora or qlora",
        f"spec.storage.claimName: {CLAIM_AND_SIZE}",
    ]


def test_batch_problem_gives_the_numbers() -> None:
    document = job({"training": {"globalBatchSize": 9, "perDeviceBatchSize": 2}})
    (problem,) = said(document)
    assert problem.startswith("spec.training.globalBatchSize: 9 does not divide over")
    assert problem.endswith(" = 4; use a multiple, or leave it out")


@pytest.mark.parametrize("document", [None, 5, "x", [], [1]], ids=repr)
def test_what_is_no_object_is_refused(document: object) -> None:
    assert said(document) == ["not an object: a map with apiVersion, kind, metadata and spec is needed"]


def test_status_is_not_the_users_to_get_wrong() -> None:
    assert said(job(status={"phase": "Nonsense"})) == []


def leaves() -> Iterator[tuple[str, dict[str, Any]]]:
    spec = object_schema()["properties"]["spec"]
    for path, field in walk(spec, "spec"):
        if "[*]" not in path and "properties" not in field:
            yield path, field


NUMBERS = [path for path, field in leaves() if field.get("type") in ("integer", "number")]


def with_field(path: str, value: object) -> dict[str, Any]:
    document = deepcopy(job())
    group = document
    *parents, name = path.split(".")
    for parent in parents:
        group = group.setdefault(parent, {})
    group[name] = value
    return document


def test_there_are_numbers_to_try() -> None:
    assert len(NUMBERS) > 20


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", True, [], {}], ids=repr)
def test_number_refuses_what_is_no_finite_number(path: str, value: object) -> None:
    assert path in [problem.path for problem in validate(with_field(path, value))]


@pytest.mark.parametrize(("path", "kind"), [(path, field.get("type")) for path, field in leaves()])
def test_every_field_refuses_a_value_of_another_kind_by_its_full_path(path: str, kind: str) -> None:
    wrong = "x" if kind == "array" else [{}]
    assert path in [problem.path for problem in validate(with_field(path, wrong))]


@pytest.mark.parametrize("name", ["a", "a" * 40, "a1-b"])
def test_name_that_its_children_can_begin_with_is_accepted(name: str) -> None:
    assert said(named(name)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(json_values, json_values)
def test_nonsense_is_refused_without_a_crash(document: object, spec: object) -> None:
    assert validate(document)
    assert validate(job(spec=spec))


@settings(max_examples=100, deadline=None)
@given(documents())
def test_random_job_is_refused_by_path_or_resolves_to_a_config_that_the_pod_reads_back(
    document: dict[str, Any],
) -> None:
    if problems := validate(document):
        assert all(problem.path.startswith("spec") and problem.message for problem in problems)
        return
    accepted = read_job(document)
    train = resolve(accepted, namespace="default", uid="0123").train
    assert parse_config(read_document(train.to_yaml())) == train
