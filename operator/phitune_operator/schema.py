"""The CRD, made from the types in api.py: a structural OpenAPI schema, CEL rules, columns.

A structural schema knows no references, no null alternatives and no closed objects: references are put in
place, `X | None` becomes a field that is not required, unknown fields are refused by the API server itself.
"""

import copy
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from phitune_operator import names
from phitune_operator.api import FineTuneJob, FineTuneJobSpec
from phitune_operator.api_status import Status
from phitune_operator.fields import INT_OR_STRING, LIST_MAP_KEYS, LIST_TYPE
from phitune_operator.rule import Rule
from phitune_operator.rules import IMMUTABLE, RULES

Schema = dict[str, Any]

_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    INT_OR_STRING,
    LIST_TYPE,
    LIST_MAP_KEYS,
)
"""Keywords that mean the same in pydantic's schema and in a CRD."""

COLUMNS: Final = (
    # name, type, JSON path, priority (1: only with -o wide), description
    ("Method", "string", ".spec.method", 0, "What is trained"),
    ("Task", "string", ".spec.task", 0, "What is learnt"),
    ("GPUs", "string", ".status.summary.gpus", 0, "Nodes x devices of each"),
    ("Phase", "string", ".status.phase", 0, "Where the job is in its life"),
    ("Progress", "string", ".status.summary.progress", 0, "Optimizer steps"),
    ("ETA", "string", ".status.summary.eta", 0, "Time until the last step"),
    ("Loss", "string", ".status.summary.loss", 0, "Mean cross entropy of the last steps"),
    ("Score", "string", ".status.summary.score", 0, "Newest score on held-out samples"),
    ("Restarts", "integer", ".status.restarts", 0, "Gangs started after the first one"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since the job was created"),
    ("Images/s", "string", ".status.summary.imagesPerSecond", 1, "Pictures trained on in a second"),
    ("MFU", "string", ".status.summary.mfu", 1, "Model FLOPs utilisation"),
    ("Checkpoint", "string", ".status.summary.lastCheckpoint", 1, "Newest complete checkpoint"),
    ("Product", "string", ".status.placement.product", 1, "GPU product"),
    ("Image", "string", ".status.placement.image", 1, "Trainer image"),
)


@cache
def object_schema() -> Schema:
    """The structural schema of a FineTuneJob, rules included. It is shared: never change it."""
    spec = structural(FineTuneJobSpec.model_json_schema(by_alias=True))
    status = structural(Status.model_json_schema(by_alias=True))
    root: Schema = {
        "description": FineTuneJob.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"Always {names.API_VERSION}.", "type": "string"},
            "kind": {"description": f"Always {names.KIND}.", "type": "string"},
            # As long as any object's name may be: bounds the cost of the rule on it.
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": spec,
            "status": status,
        },
    }
    for rule in RULES:
        _schema_at(root, rule.at).setdefault("x-kubernetes-validations", []).append(_validation(rule))
    spec.setdefault("x-kubernetes-validations", []).extend(_transitions())
    return root


def crd() -> Schema:
    """The CustomResourceDefinition, the same for the same api.py."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": names.LIST_KIND,
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": ["ml"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": copy.deepcopy(object_schema())},
                }
            ],
        },
    }


def structural(schema: Schema, definitions: Schema | None = None) -> Schema:
    """A pydantic schema as a CRD takes it; descriptions become one line each."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    alternatives = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if alternatives:
        (only,) = alternatives  # X | None is the one union that the API has
        return structural({**only, **{k: v for k, v in schema.items() if k != "anyOf"}}, definitions)

    kept: Schema = {key: schema[key] for key in _KEPT if key in schema and schema[key] is not None}
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    kept.update(_bounds(schema))
    if schema.get(INT_OR_STRING):
        del kept["type"]
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "items" in schema:
        kept["items"] = structural(schema["items"], definitions)
    if "properties" in schema:
        kept["properties"] = {
            name: structural(field, definitions) for name, field in schema["properties"].items()
        }
        if isinstance(kept.get("default"), dict):
            kept["default"] = {}  # the fields inside have defaults of their own
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    elif "patternProperties" in schema:
        (values,) = schema["patternProperties"].values()
        kept["additionalProperties"] = structural(values, definitions)
    return kept


def with_defaults(schema: Schema, value: Any) -> Any:
    """The value with the schema's defaults filled in, as the API server does; null is as good as absent."""
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        filled = {key: item for key, item in value.items() if item is not None or key not in known}
        for name, field in known.items():
            if name not in filled and "default" in field:
                filled[name] = field["default"]
            if name in filled:
                filled[name] = with_defaults(field, filled[name])
        return filled
    if isinstance(value, dict) and "additionalProperties" in schema:
        return {key: item for key, item in value.items() if item is not None}
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], item) for item in value]
    return value


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every field of a schema with its path; [*] stands for the entries of a list."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, field
        yield from walk(field, here)
        yield from walk(field.get("items", {}), f"{here}[*]")


def _bounds(schema: Schema) -> Schema:
    """OpenAPI 3.0 says "exclusive" beside the bound, pydantic's draft instead of it."""
    bounds: Schema = {}
    for key, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if key in schema:
            bounds[key] = schema[key]
        elif exclusive in schema:
            bounds[key] = schema[exclusive]
            bounds[exclusive] = True
    return bounds


def _schema_at(root: Schema, path: str) -> Schema:
    schema = root
    for part in path.split(".") if path else []:
        schema = schema["properties"][part.removesuffix("[*]")]
        if part.endswith("[*]"):
            schema = schema["items"]
    return schema


def _validation(rule: Rule) -> Schema:
    validation: Schema = {"rule": rule.cel, "message": f"{rule.path.replace('[*]', '[]')}: {rule.message}"}
    return {**validation, "fieldPath": f".{rule.field}"}


def _transitions() -> Iterator[Schema]:
    for path in IMMUTABLE:
        yield {
            "rule": f"has(self.{path}) == has(oldSelf.{path}) && "
            f"(!has(self.{path}) || self.{path} == oldSelf.{path})",
            "message": f"spec.{path}: cannot be changed after creation; create a new FineTuneJob",
        }


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "priority": priority, "description": description}


if __name__ == "__main__":
    from phitune_operator.generate import main

    sys.exit(main(sys.argv[1:]))
