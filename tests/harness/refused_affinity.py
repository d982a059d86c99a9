"""What each field of a pod template's affinity refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness.affinity import WISHES
from harness.cluster import Object
from harness.documents import Refused, job
from phitune_operator.schema import object_schema, walk

FIELD = "podTemplate.affinity"
SCHEMA = object_schema()["properties"]["spec"]["properties"]["podTemplate"]["properties"]["affinity"]


def _with(path: str, value: Any) -> Object:
    """A job with all wishes, in which one field says something else: in the first entry of each list."""
    changed = json.loads(json.dumps(WISHES))  # where one thing stands in two places, one of them changes
    group, parts = changed, path.split(".")
    for part in parts[:-1]:
        group = group[part.removesuffix("[*]")]
        group = group[0] if part.endswith("[*]") else group
    group[parts[-1]] = value
    return job({"podTemplate": {"affinity": changed}})


def _wrong(field: Object) -> tuple[Any, str]:
    """A value of another type or beyond its bounds, and a part of what is said about it."""
    if "enum" in field:
        return "Is", field["enum"][0]
    if "additionalProperties" in field:
        return ["app"], "must be a map"
    wrong = {
        "object": ([], "a map of fields, got"),
        "array": ({}, "must be a list"),
        "integer": (101, "at most 100, got 101"),
        "string": ("two words", "the key of a label"),
    }
    return wrong[field["type"]]


def _rows() -> Iterator[tuple[str, Any, str, str]]:
    """Field, value, a part of what is said, and what of the value is named, where it is not the whole."""
    yield from ((path, *_wrong(field), "") for path, field in walk(SCHEMA))
    for path, field in walk(SCHEMA):
        name = path.rpartition(".")[2]
        match name:
            case "nodeSelectorTerms":
                yield path, [], "at least 1", ""
                yield path, [{}], "an empty term matches no node", "[0].matchExpressions"
            case "namespaces":
                yield path, ["A"], "lower-case letters", "[0]"
            case "matchLabels":
                yield path, {"a b": "a"}, "the key of a label", ".a b"
            case "matchExpressions":
                key, needed = {"key": "a"}, "needed with In and NotIn"
                yield path, [{**key, "operator": "In"}], needed, "[0].values"
                yield path, [{**key, "operator": "Exists", "values": ["a"]}], needed, "[0].values"
                if "Gt" in field["items"]["properties"]["operator"]["enum"]:
                    number = "one whole number with Gt and Lt"
                    for values in (["1", "2"], ["a"], ["1.5"]):
                        yield path, [{**key, "operator": "Lt", "values": values}], number, "[0].values"
                else:
                    yield path, [{**key, "operator": "Gt", "values": ["1"]}], "DoesNotExist", "[0].operator"
            case "matchFields":
                called = {"key": "metadata.name", "operator": "In"}
                yield path, [{**called, "values": ["a", "b"]}], "at most 1", "[0].values"
                yield path, [{**called, "key": "spec.podCIDR", "values": ["a"]}], "metadata.name", "[0].key"
            case "topologyKey":
                yield path, "", "the key of a label", ""


AFFINITY = [
    Refused(
        f"{FIELD}.{path}{part} {str(value)[:40]}",
        _with(path, value),
        f"spec.{FIELD}.{path.replace('[*]', '[0]')}{part}",
        message,
    )
    for path, value, message, part in _rows()
]
