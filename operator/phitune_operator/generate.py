"""Writes what is generated from api.py: the CRD, its copy in the chart, and its reference page.

`make generate` calls it; with --check nothing is written, and a file that differs is named.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from phitune_operator import names
from phitune_operator.fields import IN_WORDS, INT_OR_STRING
from phitune_operator.rules import IMMUTABLE, RULES
from phitune_operator.schema import COLUMNS, Schema, crd, walk

CRD_FILE: Final = f"crds/{names.GROUP}_{names.PLURAL}.yaml"
CHART_FILE: Final = "charts/phitune/templates/crd.yaml"
REPOSITORY: Final = Path(__file__).resolve().parents[2]
REFERENCE_FILE: Final = "docs/reference/finetunejob.md"

_SOURCE: Final = "operator/phitune_operator/api.py by `make generate`; do not edit"


class _Dumper(yaml.SafeDumper):
    """Plain YAML: no anchors, since a reader of a manifest does not expect them."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """Every generated file: path from the repository's root, and content."""
    manifest = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=110)
    return {
        CRD_FILE: f"# Generated from {_SOURCE}.\n{manifest}",
        CHART_FILE: _chart_template(manifest),
        REFERENCE_FILE: reference(),
    }


def main(arguments: list[str], root: Path = REPOSITORY) -> int:
    """Write the files, or with --check compare them; 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m phitune_operator.schema", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name the files that differ")
    options = parser.parse_args(arguments)
    drifted = {path: content for path, content in files().items() if _content(root / path) != content}
    for path, content in drifted.items():
        if options.check:
            print(f"{path}: differs from what api.py makes; run `make generate`", file=sys.stderr)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content, encoding="utf-8")
            print(f"{path}: written")
    return 1 if drifted and options.check else 0


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _chart_template(manifest: str) -> str:
    """The CRD as a template: Helm never upgrades what lies in a chart's own crds/ folder."""
    if "{{" in manifest:
        raise ValueError("the CRD holds {{, which Helm would take for its own; reword the description")
    name = f"  name: {names.PLURAL}.{names.GROUP}\n"
    metadata = (
        f"{name}"
        "  labels:\n"
        '    {{- include "phitune.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    return (
        f"{{{{/* Generated from {_SOURCE}. */}}}}\n"
        "{{- if .Values.crds.enabled }}\n"
        f"{manifest.replace(name, metadata, 1)}"
        "{{- end }}\n"
    )


def reference() -> str:
    """The reference page of the API, in Markdown."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    columns = "".join(
        f"| {name.upper()} | {description}{' (with `-o wide`)' if priority else ''} | `{path}` |\n"
        for name, _, path, priority, description in COLUMNS
    )
    rules = "".join(f"- `{rule.path}`: {_cell(rule.message)}\n" for rule in RULES)
    immutable = ", ".join(f"`spec.{path}`" for path in IMMUTABLE)
    return f"""<!-- Generated from {_SOURCE}. -->
# FineTuneJob

`{names.API_VERSION}`, namespaced, short name `{names.SHORT_NAME}`. {schema["description"]}

The smallest job:

```yaml
apiVersion: {names.API_VERSION}
kind: {names.KIND}
metadata: {{name: docvqa}}
spec:
  task: docvqa
  method: lora
  resources: {{nodes: 2, gpusPerNode: 8}}
  storage: {{size: 200Gi}}
```

`metadata.name` has at most {names.MAX_JOB_NAME} lower-case letters, digits and hyphens, first a letter,
last no hyphen.

"Recipe" is Microsoft's published fine-tuning recipe for this model; "not published" marks a default that it
does not state. Sizes are Kubernetes quantities, durations are written as "90s", "30m" or "1h30m".

## Spec

{_table(schema["properties"]["spec"], "spec")}
## Rules between fields

Refused at `kubectl apply`, and by `phitune render`:

{rules}
Cannot be changed, added or removed after creation: {immutable}.

## Status

Written by the operator alone; a field is absent until it is known.

{_table(schema["properties"]["status"], "status")}
## Columns of `kubectl get`

| Column | Meaning | Field |
| --- | --- | --- |
{columns}"""


def _table(schema: Schema, root: str) -> str:
    lines = ["| Field | Type | Description |", "| --- | --- | --- |"]
    required = {f"{root}.{name}" for name in schema.get("required", [])}
    for path, field in walk(schema, root):
        required |= {f"{path}.{name}" for name in field.get("required", [])}
        required |= {f"{path}[*].{name}" for name in field.get("items", {}).get("required", [])}
        kind = _kind(field) + (", required" if path in required and root == "spec" else "")
        name, description = path.replace("[*]", "[]"), _cell(field.get("description", ""))
        lines.append(f"| `{name}` | {_cell(kind)} | {description} |")
    return "\n".join(lines) + "\n"


def _kind(field: Schema) -> str:
    """The type of a field with its bounds, in words."""
    if "enum" in field:
        return "one of " + ", ".join(field["enum"])
    if field.get(INT_OR_STRING):
        return "quantity"
    kind = str(field["type"])
    if kind == "object":
        kind = "group" if "properties" in field else "map"
    if field["type"] == "array":
        kind = f"list of {_kind(field['items'])}"
    if "minimum" in field:
        kind += f", {'more than' if field.get('exclusiveMinimum') else 'from'} {field['minimum']}"
    if "maximum" in field:
        kind += f" {'to below' if field.get('exclusiveMaximum') else 'to'} {field['maximum']}"
    if field.get("pattern") in IN_WORDS:
        kind += f": {IN_WORDS[field['pattern']]}"
    return kind


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
