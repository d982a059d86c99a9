"""What each minor version of Kubernetes makes of an object: the fields that it has not, or takes otherwise.

The table beside it is written by hack/kubernetes_fields.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.cluster import Object

_TABLE: Object = json.loads(Path(__file__).with_name("kubernetes_fields.json").read_text(encoding="utf-8"))
MINORS: list[str] = _TABLE["minors"]
"""Such as 1.30, the oldest first."""
_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "int-or-string": (int, str),
    "object": (dict,),
}
NOT_ALPHA = {
    # Its description was not changed when the feature became stable, in 1.29.
    "JSONSchemaProps.x-kubernetes-validations",
}


def is_known(document: Object) -> bool:
    """Whether the kind is of Kubernetes itself, not of another project."""
    return _kind(document) in _TABLE["kinds"]


def problems(document: Object, minor: str) -> list[str]:
    """What that version would drop, refuse, or have behind a feature gate that is off."""
    kind = _TABLE["kinds"][_kind(document)]
    if minor not in kind["in"]:
        return [f"{_kind(document)} is not in {minor}"]
    return list(_problems(document, kind["type"], minor, str(document["kind"])))


def problems_of_part(value: Any, type_name: str, minor: str) -> list[str]:
    """The same of what a kind of another project holds, such as a PodTemplateSpec."""
    return list(_problems(value, type_name, minor, type_name))


def _kind(document: Object) -> str:
    return f"{document['apiVersion']} {document['kind']}"


def _problems(value: Any, wanted: str, minor: str, path: str) -> Iterator[str]:
    if wanted.startswith("[]"):
        yield from _of_kind(value, (list,), path)
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _problems(item, wanted[2:], minor, f"{path}[{index}]")
    elif wanted.startswith("{}"):
        yield from _of_kind(value, (dict,), path)
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from _problems(item, wanted[2:], minor, f"{path}.{key}")
    elif wanted in _TABLE["types"]:
        yield from _of_kind(value, (dict,), path)
        if isinstance(value, dict):
            yield from _of_fields(value, wanted, minor, path)
    elif wanted != "any":
        yield from _of_kind(value, _SCALARS[wanted], path)


def _of_fields(value: Object, type_name: str, minor: str, path: str) -> Iterator[str]:
    fields = _TABLE["types"][type_name]
    about = {name: field if isinstance(field, dict) else {"type": field} for name, field in fields.items()}
    yield from (
        f"{path}.{name} is needed in {minor}"
        for name, field in about.items()
        if minor in field.get("required", []) and name not in value
    )
    for name, item in value.items():
        field = about.get(name, {"in": []})
        if minor not in field.get("in", MINORS):
            yield f"{path}.{name} is not in {minor}"
        elif minor in field.get("alpha", []) and f"{type_name}.{name}" not in NOT_ALPHA:
            yield f"{path}.{name} is alpha in {minor}"
        else:
            yield from _problems(item, field["type"], minor, f"{path}.{name}")


def _of_kind(value: Any, kinds: tuple[type, ...], path: str) -> Iterator[str]:
    # A truth value is an integer to Python, and not to the API server.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        yield f"{path} is {value!r}"
