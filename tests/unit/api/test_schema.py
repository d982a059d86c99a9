"""The CRD as a file: what it promises to whoever reads it, and that it is the one made from api.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_operator import names
from phitune_operator.generate import CHART_FILE, CRD_FILE, files, main
from phitune_operator.rules import IMMUTABLE, RULES
from phitune_operator.schema import COLUMNS, walk

CRD: dict[str, Any] = yaml.safe_load((REPOSITORY / CRD_FILE).read_text(encoding="utf-8"))
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
SPEC = dict(walk(ROOT["properties"]["spec"], "spec"))
STATUS = dict(walk(ROOT["properties"]["status"], "status"))

PROMISED_SPEC = """
model.name model.path model.revision model.tokenSecret model.init task data.path data.train data.eval
data.imageRoot data.generate data.name data.revision data.tokenSecret method freezeVision lora.rank
lora.alpha lora.dropout lora.vision
training.epochs training.maxSteps training.globalBatchSize training.perDeviceBatchSize
training.learningRate training.weightDecay training.warmupSteps training.schedule training.numCrops
training.maxLength training.packing training.gradientCheckpointing training.precision training.attention
training.seed resources.nodes resources.gpusPerNode resources.processesPerNode resources.gpuProducts
resources.cpu resources.memory resources.sharedMemory resources.tolerations resources.nodeSelector
resources.priorityClassName storage.claimName storage.size storage.storageClassName storage.retain
checkpoint.everySteps checkpoint.everyMinutes checkpoint.keep evaluation.enabled evaluation.everySteps
evaluation.maxSamples export.merged export.adapter runPolicy.suspend runPolicy.restartLimit
runPolicy.stallTimeout runPolicy.activeDeadline runPolicy.ttlAfterFinished queueName image
training.offloadOptimizer imagePullSecrets env podTemplate.annotations podTemplate.labels
podTemplate.affinity podTemplate.tolerations podTemplate.schedulerName resumeFrom
""".split()  # noqa: SIM905, a table to read
PROMISED_STATUS = """
phase observedGeneration conditions placement.product placement.computeCapability placement.image
placement.attention placement.precision placement.microBatchSize placement.reason attempt restarts
progress.step progress.totalSteps progress.percent progress.epoch progress.loss progress.learningRate
progress.imagesPerSecond progress.tokensPerSecond progress.mfu progress.eta progress.updatedAt
lastCheckpoint.step lastCheckpoint.path lastCheckpoint.time evaluation.metric evaluation.value
evaluation.baseline evaluation.samples artifacts failure.pod failure.node failure.exitCode
failure.reason failure.message failure.lastLines startTime completionTime
""".split()  # noqa: SIM905, a table to read


@pytest.mark.parametrize("path", PROMISED_SPEC)
def test_promised_field_can_be_set(path: str) -> None:
    assert f"spec.{path}" in SPEC


@pytest.mark.parametrize("path", PROMISED_STATUS)
def test_promised_status_is_not_pruned(path: str) -> None:
    assert f"status.{path}" in STATUS


@pytest.mark.parametrize("path", [*SPEC, *STATUS])
def test_every_field_is_described(path: str) -> None:
    description = {**SPEC, **STATUS}[path]["description"]
    assert description.endswith(".")
    assert len(description.split()) >= 2


REQUIRED = {
    "spec.task",
    "spec.method",
    "spec.storage",
    "spec.env[*].name",
    "spec.imagePullSecrets[*].name",
}
REQUIRED_OF_AFFINITY = """
nodeSelectorTerms key operator weight preference topologyKey podAffinityTerm values
""".split()  # noqa: SIM905, as above


def required_fields() -> set[str]:
    groups = {"spec": ROOT["properties"]["spec"], **SPEC}
    required = {f"{path}.{name}" for path, group in groups.items() for name in group.get("required", [])}
    return required | {
        f"{path}[*].{name}"
        for path, field in SPEC.items()
        for name in field.get("items", {}).get("required", [])
    }


def test_only_these_fields_must_be_given() -> None:
    of_affinity = {path for path in required_fields() if path.startswith("spec.podTemplate.affinity.")}
    assert required_fields() - of_affinity == REQUIRED
    assert {path.rpartition(".")[2] for path in of_affinity} == set(REQUIRED_OF_AFFINITY)


@pytest.mark.parametrize("path", [path for path in SPEC if path not in required_fields()])
def test_description_of_a_field_says_what_holds_without_it(path: str) -> None:
    assert "Default" in SPEC[path]["description"] or SPEC[path].get("type") == "object"


@pytest.mark.parametrize(
    ("path", "field"),
    [(path, field) for path, field in SPEC.items() if isinstance(field.get("default"), int | str)],
)
def test_description_names_the_default_of_the_schema(path: str, field: dict[str, Any]) -> None:
    default = field["default"]
    said = str(default).lower() if isinstance(default, bool) else str(default)
    assert said in field["description"].partition("Default:")[2] or path == "spec.env[*].value"


@pytest.mark.parametrize("path", SPEC)
def test_every_value_is_bounded(path: str) -> None:
    field = SPEC[path]
    match field.get("type"):
        case "string":
            assert "enum" in field or "maxLength" in field
        case "integer" | "number":
            assert field["minimum"] <= field["maximum"]
        case "array":
            assert "maxItems" in field
        case "object" if "additionalProperties" in field:
            assert "maxProperties" in field


@pytest.mark.parametrize("path", [*SPEC, *STATUS])
def test_schema_is_structural(path: str) -> None:
    field = {**SPEC, **STATUS}[path]
    if field.get("x-kubernetes-int-or-string"):
        assert field["anyOf"] == [{"type": "integer"}, {"type": "string"}]
        assert "type" not in field
    else:
        assert "anyOf" not in field
        assert isinstance(field["type"], str)
    assert not {"$ref", "$defs", "title", "const", "oneOf", "nullable"} & field.keys()


def test_crd_is_small_enough_for_any_way_to_apply_it() -> None:
    """Client-side apply keeps the whole in an annotation, of which an object has 256 KiB at most."""
    assert len(json.dumps(CRD)) < 128 * 1024


def test_defaults_of_groups_are_empty_so_that_those_inside_apply() -> None:
    groups = {
        path: field["default"] for path, field in SPEC.items() if isinstance(field.get("default"), dict)
    }
    assert set(groups) == {
        f"spec.{name}"
        for name in ["training", "resources", "checkpoint", "evaluation", "export", "runPolicy"]
    }
    assert all(default == {} for default in groups.values())


def test_columns_are_those_of_the_design_and_show_fields_that_exist() -> None:
    shown = [name.upper() for name, _, _, priority, _ in COLUMNS if priority == 0]
    assert shown == ["METHOD", "TASK", "GPUS", "PHASE", "PROGRESS", "ETA", "LOSS", "SCORE", "RESTARTS", "AGE"]
    assert [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]] == [c[2] for c in COLUMNS]
    known = {f".{path}" for path in [*SPEC, *STATUS]} | {".metadata.creationTimestamp"}
    assert {path for _, _, path, _, _ in COLUMNS} <= known


def test_names_of_the_crd() -> None:
    assert CRD["metadata"]["name"] == "finetunejobs.phitune.dev"
    assert CRD["spec"]["names"]["shortNames"] == ["ftj"]
    assert VERSION["subresources"] == {"status": {}}
    assert VERSION["name"] == names.VERSION == "v1alpha1"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}: {rule.message[:30]}")
def test_rule_names_a_field_that_exists(rule: Any) -> None:
    path = rule.path
    assert path in SPEC or path == "metadata.name"
    for field in rule.reads():
        assert f"{rule.at}.{field}".lstrip(".") in [*SPEC, "metadata.name"]


@pytest.mark.parametrize("path", IMMUTABLE)
def test_fixed_field_exists_and_says_so(path: str) -> None:
    group = f"spec.{path}".rpartition(".")[0]
    said = SPEC[f"spec.{path}"]["description"] + SPEC.get(group, {}).get("description", "")
    assert "annot be changed" in said.replace("\n", " ")


def test_committed_files_are_the_generated_ones() -> None:
    made = files()
    assert len(made) == 3
    for path, content in made.items():
        assert (REPOSITORY / path).read_text(encoding="utf-8") == content, f"{path}: run `make generate`"


def test_generated_files_are_the_same_bytes_in_every_process() -> None:
    code = "from phitune_operator.generate import files; print(files())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_check_names_each_file_that_differs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], root=tmp_path) == 0
    assert main(["--check"], root=tmp_path) == 0
    (tmp_path / CRD_FILE).write_text("other", encoding="utf-8")
    (tmp_path / CHART_FILE).unlink()
    capsys.readouterr()
    assert main(["--check"], root=tmp_path) == 1
    said = capsys.readouterr().err
    assert CRD_FILE in said
    assert CHART_FILE in said
    assert (tmp_path / CRD_FILE).read_text(encoding="utf-8") == "other"
    assert not (tmp_path / CHART_FILE).exists()


def test_chart_holds_the_same_crd_between_its_switches() -> None:
    lines = (REPOSITORY / CHART_FILE).read_text(encoding="utf-8").splitlines()
    helm = [line for line in lines if "{{" in line]
    assert [line.strip() for line in helm] == [
        helm[0],
        "{{- if .Values.crds.enabled }}",
        '{{- include "phitune.labels" . | nindent 4 }}',
        "{{- if .Values.crds.keep }}",
        "{{- end }}",
        "{{- end }}",
    ]
    rendered = yaml.safe_load("\n".join(line for line in lines if "{{" not in line))
    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered["metadata"].pop("labels") is None
    assert rendered == CRD
