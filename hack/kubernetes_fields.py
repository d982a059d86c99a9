"""Writes tests/harness/kubernetes_fields.json: fields of the kinds that we make, by version of Kubernetes.

They are read from the OpenAPI document in the Go module of each version, which is downloaded where the module
cache has it not (30 MB each). To be run when there is a new minor version, or we make a new kind.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "harness" / "kubernetes_fields.json"
GO = ROOT / ".venv" / "bin" / "go"
RELEASES = {**{f"1.{minor}": f"v1.{minor}.0" for minor in range(29, 36)}, "1.36": "v1.36.3"}
"""Minor versions, and the release of each that is read."""
KINDS = (
    "v1 ConfigMap",
    "v1 Event",
    "v1 Namespace",
    "v1 PersistentVolumeClaim",
    "v1 Pod",
    "v1 Service",
    "v1 ServiceAccount",
    "apps/v1 Deployment",
    "batch/v1 Job",
    "coordination.k8s.io/v1 Lease",
    "networking.k8s.io/v1 NetworkPolicy",
    "policy/v1 PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1 ClusterRole",
    "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
    "rbac.authorization.k8s.io/v1 Role",
    "rbac.authorization.k8s.io/v1 RoleBinding",
    "apiextensions.k8s.io/v1 CustomResourceDefinition",
    "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy",
    "admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding",
)
"""What the chart, the operator and the plugin make, but for the kinds of other projects."""
PARTS = ("io.k8s.api.batch.v1.JobTemplateSpec", "io.k8s.api.core.v1.PodTemplateSpec")
"""What the kinds of other projects hold of Kubernetes."""
MANAGED_FIELDS = "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"
"""Like the status of a kind, never ours to write."""
ANY = "any"
IS_ALPHA = re.compile(r"\balpha(-level|,| field| feature)", re.IGNORECASE)
"""How descriptions tell that a field is behind a feature gate that is off."""
ALTERNATIVES = {f"JSONSchemaPropsOr{other}": "JSONSchemaProps" for other in ("Array", "Bool", "StringArray")}
"""Types that are one of two, and the one that we write."""

Document = Mapping[str, Any]


def main() -> int:
    """Write the table."""
    documents = {minor: description(release) for minor, release in RELEASES.items()}
    kinds = {minor: dict(kinds_of(document)) for minor, document in documents.items()}
    table = {
        "minors": list(RELEASES),
        "kinds": {
            kind: {
                "type": short(kinds["1.36"][kind]),
                "in": [minor for minor in RELEASES if kind in kinds[minor]],
            }
            for kind in KINDS
        },
        "types": in_all({minor: types_of(document, kinds[minor]) for minor, document in documents.items()}),
    }
    TABLE.write_text(written(table), encoding="utf-8")
    return 0


def written(table: Mapping[str, Any]) -> str:
    """The table as JSON, with a line for each kind and type."""
    minors, *parts = ("minors", "kinds", "types")
    lines = [f" {json.dumps(minors)}: {json.dumps(table[minors])}"]
    for part in parts:
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in table[part].items())
        lines.append(f" {json.dumps(part)}: {{\n{rows}\n }}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def description(release: str) -> Document:
    """The OpenAPI document of a release."""
    command = [str(GO), "mod", "download", "-json", f"k8s.io/kubernetes@{release}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    path = Path(json.loads(said)["Dir"]) / "api" / "openapi-spec" / "swagger.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def kinds_of(document: Document) -> Iterator[tuple[str, str]]:
    """apiVersion and kind, and the name of its definition."""
    for name, definition in document["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            version = "/".join(part for part in (kind["group"], kind["version"]) if part)
            yield f"{version} {kind['kind']}", name


def types_of(document: Document, kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every type that the kinds are made of, by its short name: field, and what there is to know of it."""
    definitions = document["definitions"]
    found: dict[str, dict[str, Any]] = {}
    full_names: dict[str, str] = {}
    open_names = [*PARTS, *(kinds[kind] for kind in KINDS if kind in kinds)]
    while open_names:
        name = open_names.pop()
        if full_names.setdefault(short(name), name) != name:
            raise ValueError(f"{name} and {full_names[short(name)]} have one short name")
        if short(name) in found:
            continue
        definition = definitions[name]
        never_written = (f"#/definitions/{name}Status", "#/definitions/" + MANAGED_FIELDS)
        fields = {
            key: field
            for key, field in definition.get("properties", {}).items()
            if not any(f'"{ref}"' in json.dumps(field) for ref in never_written)
        }
        found[short(name)] = {
            key: {
                "type": type_of(field, definitions),
                "required": key in definition.get("required", []),
                "alpha": IS_ALPHA.search(field.get("description", "")) is not None,
            }
            for key, field in fields.items()
        }
        open_names += [
            ref for field in fields.values() for ref in refs(field) if has_fields(definitions[ref])
        ]
    return found


def has_fields(definition: Document) -> bool:
    """Whether it is a group of fields, and not a kind of scalar or anything at all."""
    return bool(definition.get("properties"))


def refs(field: Document) -> list[str]:
    """Names of the definitions that a field's values are of."""
    return re.findall(r'"#/definitions/([^"]+)"', json.dumps(field))


def type_of(field: Document, definitions: Document) -> str:
    """The type in one word: string, PodSpec, []Container, {}string."""
    if "$ref" in field:
        (name,) = refs(field)
        if short(name) in ALTERNATIVES:
            return ALTERNATIVES[short(name)]
        return short(name) if has_fields(definitions[name]) else scalar(definitions[name])
    if "items" in field:
        return "[]" + type_of(field["items"], definitions)
    if "additionalProperties" in field:
        return "{}" + type_of(field["additionalProperties"], definitions)
    return scalar(field)


def scalar(schema: Document) -> str:
    """The type of a value without fields."""
    return "int-or-string" if schema.get("format") == "int-or-string" else schema.get("type", ANY)


def short(name: str) -> str:
    """Name of a definition without its package: no two of those that we use are alike."""
    return name.rpartition(".")[2]


def in_all(by_minor: Mapping[str, Mapping[str, Mapping[str, Document]]]) -> dict[str, dict[str, Any]]:
    """All versions in one table; `in`, `required` and `alpha` list versions: where not all, or not none."""
    table: dict[str, dict[str, Any]] = {}
    for name in sorted({name for types in by_minor.values() for name in types}):
        fields = {minor: types[name] for minor, types in by_minor.items() if name in types}
        table[name] = {
            key: _over_time({minor: fields[minor].get(key) for minor in fields})
            for key in sorted({key for known in fields.values() for key in known})
        }
    return table


def _over_time(field: Mapping[str, Document | None]) -> str | dict[str, Any]:
    known = {minor: about for minor, about in field.items() if about is not None}
    types = {about["type"] for about in known.values()}
    if len(types) != 1:
        raise ValueError(f"a field changed its type: {types}")
    told: dict[str, Any] = {"type": types.pop()}
    if len(known) < len(field):
        told["in"] = list(known)
    for mark in ("required", "alpha"):
        if marked := [minor for minor, about in known.items() if about[mark]]:
            told[mark] = marked
    return told["type"] if len(told) == 1 else told


if __name__ == "__main__":
    raise SystemExit(main())
