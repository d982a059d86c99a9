"""Says everything that is wrong with a FineTuneJob, before any cluster sees it.

Refuses what the API server refuses: the fields are checked by the types that the CRD is made from, what
concerns several fields by the rules that are in the CRD, too.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from phitune_operator.api import FineTuneJob
from phitune_operator.fields import IN_WORDS, LIST_MAP_KEYS
from phitune_operator.rule import Rule
from phitune_operator.rules import RULES
from phitune_operator.schema import Schema, object_schema, structural, with_defaults
from phitune_trainer.problems import message_of, path_of


@dataclass(frozen=True, order=True)
class Problem:
    """One thing to change."""

    path: str
    """Full path of the field, such as spec.lora.rank; empty for the document itself."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidJobError(Exception):
    """A document is not a FineTuneJob that could run; `problems` has every reason."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def validate(document: object) -> list[Problem]:
    """Every problem of a document given as plain data, in the order of the fields; empty: accepted."""
    return _check(document)[1]


def read_job(document: object) -> FineTuneJob:
    """The document as a typed FineTuneJob; InvalidJobError with every problem where it is refused."""
    job, problems = _check(document)
    if job is None or problems:
        raise InvalidJobError(problems)
    return job


def _check(document: object) -> tuple[FineTuneJob | None, list[Problem]]:
    if not isinstance(document, Mapping):
        return None, [Problem("", "not an object: a map with apiVersion, kind, metadata and spec is needed")]
    schema = object_schema()
    given = with_defaults(schema, {key: value for key, value in document.items() if key != "status"})
    job, problems = _check_fields(given)
    problems += _duplicates(schema, given, "")
    for rule in RULES:
        problems += _broken(rule, given, [problem.path for problem in problems])
    return job, problems


def _check_fields(given: Any) -> tuple[FineTuneJob | None, list[Problem]]:
    try:
        return FineTuneJob.model_validate(given, by_alias=True, by_name=False), []
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            message = message_of(detail, IN_WORDS)
            if detail["type"] == "extra_forbidden":
                message += _did_you_mean(detail["loc"])
            problems.append(Problem(path_of(detail["loc"]), message))
        return None, problems


@cache
def _known_fields() -> Schema:
    """Every field that the types know; the CRD says nothing about those of metadata."""
    return structural(FineTuneJob.model_json_schema(by_alias=True))


_OF_KUBERNETES = ("affinity", "env", "tolerations")
"""Fields whose parts have Kubernetes' names, which mean little elsewhere."""


@cache
def _places() -> Mapping[str, str]:
    """Where each name of a field of spec stands, as people write it; of several places the highest."""
    found: dict[str, str] = {}
    level: list[tuple[str, Schema]] = [("spec", _known_fields()["properties"]["spec"])]
    while level:
        below = [
            (f"{path}[].{name}" if "items" in schema else f"{path}.{name}", name, field)
            for path, schema in level
            for name, field in schema.get("items", schema).get("properties", {}).items()
        ]
        for path, name, _ in below:
            found.setdefault(name, path)
        level = [(path, field) for path, name, field in below if name not in _OF_KUBERNETES]
    return found


def _did_you_mean(loc: Sequence[int | str]) -> str:
    schema = _known_fields()
    *parents, name = loc
    for parent in parents:
        schema = schema["items"] if isinstance(parent, int) else schema.get("properties", {}).get(parent, {})
    siblings = schema.get("properties", {})
    very_close, close = (difflib.get_close_matches(str(name), siblings, 1, cutoff) for cutoff in (0.7, 0.6))
    elsewhere = _places().get(str(name))
    meant = [*very_close, *([elsewhere] if elsewhere else []), *close]
    return f"; did you mean {meant[0]}?" if meant else ""


def _duplicates(schema: Schema, value: Any, path: str) -> Iterator[Problem]:
    """Entries of a list that have the same key, where the schema says that keys are unique."""
    if isinstance(value, Mapping):
        for name, field in schema.get("properties", {}).items():
            yield from _duplicates(field, value.get(name), f"{path}.{name}" if path else name)
    elif isinstance(value, list) and LIST_MAP_KEYS in schema:
        (key,) = schema[LIST_MAP_KEYS]
        seen: list[Any] = []
        for index, entry in enumerate(value):
            entry_key = entry.get(key) if isinstance(entry, Mapping) else None
            if entry_key is not None and entry_key in seen:
                yield Problem(f"{path}[{index}].{key}", f"{entry_key!r} is given twice")
            seen.append(entry_key)


def _broken(rule: Rule, document: Any, wrong: Sequence[str]) -> Iterator[Problem]:
    """The rule's problem at every place where it can be judged and does not hold."""
    for path, node in _nodes(document, rule.at):
        reads = [f"{path}.{field}" if path else field for field in rule.reads()]
        if any(_inside(field, problem) for field in reads for problem in wrong):
            continue
        if rule.holds is not None and not rule.holds(node):
            message = rule.explain(node) if rule.explain else rule.message
            yield Problem(f"{path}.{rule.field}" if path else rule.field, message)


def _nodes(document: Any, at: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every map at a place such as spec.env[*], with its path."""
    found: list[tuple[str, Any]] = [("", document)]
    for part in at.split(".") if at else []:
        name = part.removesuffix("[*]")
        found = [
            (f"{path}.{name}" if path else name, node[name])
            for path, node in found
            if isinstance(node, Mapping) and name in node
        ]
        if part.endswith("[*]"):
            found = [
                (f"{path}[{index}]", entry)
                for path, entries in found
                if isinstance(entries, list)
                for index, entry in enumerate(entries)
            ]
    yield from ((path, node) for path, node in found if isinstance(node, Mapping))


def _inside(path: str, around: str) -> bool:
    return path == around or path.startswith((f"{around}.", f"{around}["))
