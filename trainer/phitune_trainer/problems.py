"""What is wrong with a document, in words: each problem with its path, what it got and what is allowed.

Shared by the trainer's config and by the API, so that both speak alike.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

_PART: Final = r"[^/.\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*"
RELATIVE_PATH: Final = rf"^(\.|{_PART}(/{_PART})*/?)$"
"""A path that stays inside the folder it starts from; "." is that folder."""
HUB_NAME: Final = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)*$"
"""A repository of the hub, or a branch, tag or commit in it."""
RUN_NAME: Final = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1123: a namespace or a job; becomes a folder."""
UID: Final = "^[0-9a-zA-Z-]+$"

PATTERNS: Final[Mapping[str, str]] = {
    RELATIVE_PATH: "a path inside its folder, none of its parts beginning with a dot",
    HUB_NAME: "a name of letters, digits, dots, hyphens and underscores, parts divided by /",
    RUN_NAME: "lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
    UID: "letters, digits and hyphens",
}


def disagreement(problems: Sequence[str]) -> PydanticCustomError:
    """What a model raises when its fields are fine one by one, not together; each problem has its path."""
    return PydanticCustomError("disagreement", "{problems}", {"problems": json.dumps(list(problems))})


def problems_of(error: ValidationError) -> list[str]:
    """Every problem of a refused model as "path: message", in the order of the fields."""
    problems: list[str] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "disagreement":
            problems.extend(json.loads(detail["ctx"]["problems"]))
        else:
            path = path_of(detail["loc"])
            problems.append(f"{path}: {message_of(detail)}" if path else message_of(detail))
    return problems


def path_of(loc: Sequence[int | str]) -> str:
    """A field's place as people write it: spec.env[0].name."""
    path = ""
    for part in loc:
        if part == "[key]":  # the key itself is wrong, and already in the path
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def message_of(detail: ErrorDetails, patterns: Mapping[str, str] = PATTERNS) -> str:
    """What is wrong with one field, what it got and what is allowed; `patterns` puts regexes in words."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    got = _shown(value)
    if kind in _LIMITS:
        limit = context[_LIMIT_KEYS[kind]]
        return f"must be {_LIMITS[kind]} {int(limit) if limit == int(limit) else limit}, got {got}"
    match kind:
        case "missing":
            return "required, but absent"
        case "extra_forbidden":
            return "unknown field"
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            return f"must be {'one of ' if ', ' in choices else ''}{choices}, got {got}"
        case "string_pattern_mismatch":
            return f"must be {patterns.get(context['pattern'], context['pattern'])}, got {got}"
        case "string_too_long" | "too_long":
            return f"at most {context['max_length']} {_unit(value)} allowed, got {_length(value)}"
        case "string_too_short" | "too_short":
            return f"at least {context['min_length']} {_unit(value)} needed, got {_length(value)}"
        case "finite_number":
            return f"must be a finite number, got {got}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {got}"
    return f"{detail['msg']}, got {got}"


_LIMITS: Final = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
_LIMIT_KEYS: Final = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
}
_TYPES: Final = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map of fields",
    "model_attributes_type": "a map of fields",
}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unit(value: object) -> str:
    return "characters" if isinstance(value, str) else "entries"


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | Sequence | Mapping) else 0
