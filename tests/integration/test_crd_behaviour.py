"""What the API server does with FineTuneJobs that are there: fixed fields, columns, status, apply.

Changes are tried as dry runs on a suspended job, so that an operator that is installed does not interfere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes import client

from harness.cluster import Cluster, CommandError, wait_for
from harness.crd import CRD, installed_crd
from harness.documents import job
from phitune_operator import names
from phitune_operator.rules import IMMUTABLE

COLUMNS = ["Name", "Method", "Task", "GPUs", "Phase", "Progress", "ETA", "Loss", "Score", "Restarts", "Age"]
WIDE_COLUMNS = ["Images/s", "MFU", "Checkpoint", "Product", "Image"]

SPEC: dict[str, Any] = {
    "method": "lora",
    "lora": {"rank": 8, "vision": False},
    "resources": {"processesPerNode": 1},
    "storage": {"storageClassName": "local-rwx"},
    "checkpoint": {"everySteps": 5},
    "runPolicy": {"suspend": True},
}

STATUS: dict[str, Any] = {
    "phase": "Running",
    "observedGeneration": 1,
    "attempt": 2,
    "restarts": 1,
    "restartsCounted": 1,
    "conditions": [
        {
            "type": "Running",
            "status": "True",
            "reason": "Stepping",
            "message": "all ranks step",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
    ],
    "placement": {
        "product": "CPU",
        "image": "localhost/phitune/trainer:1",
        "attention": "sdpa",
        "precision": "fp32",
        "globalBatchSize": 8,
        "microBatchSize": 4,
        "gradientCheckpointing": False,
        "reason": "no GPUs asked for",
        "notes": ["a note"],
    },
    "progress": {
        "state": "training",
        "step": 120,
        "totalSteps": 400,
        "percent": 30.0,
        "epoch": 0.5,
        "loss": 0.3127,
        "learningRate": 1e-05,
        "imagesPerSecond": 31.7,
        "tokensPerSecond": 1000,
        "mfu": 0.51,
        "eta": "4m10s",
        "updatedAt": "2026-01-02T03:04:05Z",
    },
    "lastCheckpoint": {"step": 100, "path": "runs/a", "time": "2026-01-02T03:04:05Z"},
    "evaluation": {"metric": "exactMatch", "value": 0.964, "baseline": 0.1, "samples": 300, "step": 100},
    "prepared": {"key": "0123456789abcdef", "at": "2026-01-02T03:04:05Z"},
    "artifacts": {"claim": "digits-workspace", "run": "runs/a", "merged": "runs/a/export/merged"},
    "failure": {
        "pod": "digits-1-master-0",
        "node": "node-1",
        "attempt": 1,
        "exitCode": 1,
        "reason": "Fault",
        "message": "it broke",
        "remedy": "mend it",
        "lastLines": ["Traceback"],
    },
    "summary": {
        "gpus": "2x1 CPU",
        "progress": "120/400 (30%)",
        "eta": "4m10s",
        "loss": "0.3127",
        "score": "0.964",
        "imagesPerSecond": "31.7",
        "mfu": "51%",
        "lastCheckpoint": "step 100",
    },
    "startTime": "2026-01-02T03:04:05Z",
    "completionTime": "2026-01-02T04:04:05Z",
}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that holds one suspended job, digits."""
    with installed_crd(cluster), cluster.temporary_namespace("crd-behaviour") as name:
        cluster.apply(job(SPEC), namespace=name)
        yield name


def patched(cluster: Cluster, namespace: str, patch: dict[str, Any], *options: str) -> dict[str, Any]:
    """The job after a merge patch that is not kept. CommandError if it is refused."""
    where = ["ftj", "digits", "--namespace", namespace, "--type", "merge", "--dry-run=server", "-o", "json"]
    text = cluster.kubectl("patch", *where, "--patch", json.dumps(patch), *options)
    document: dict[str, Any] = json.loads(text)
    return document


CHANGES: dict[str, Any] = {
    "model": {"init": None, "path": "models/a"},
    "task": "ucf101",
    "data": {"generate": None, "path": "data/a"},
    "method": "qlora",
    "freezeVision": True,
    "lora": {"rank": 16},
    "training": {"seed": 7},
    "resources.nodes": 1,
    "resources.gpusPerNode": 1,
    "resources.processesPerNode": 2,
    "resources.gpuProducts": ["H100"],
    "storage.claimName": "a",
    "storage.size": "2Gi",
    "storage.storageClassName": "other",
    "storage.retain": False,
    "checkpoint": {"everySteps": 6},
    "evaluation": {"enabled": True},
    "export": {"merged": True},
    "resumeFrom": "runs/a",
}


def test_every_fixed_field_is_tried() -> None:
    assert set(CHANGES) == set(IMMUTABLE)


@pytest.mark.parametrize(("path", "value"), CHANGES.items(), ids=CHANGES)
def test_fixed_field_cannot_be_changed_or_added(
    cluster: Cluster, namespace: str, path: str, value: object
) -> None:
    with pytest.raises(CommandError) as refused:
        patched(cluster, namespace, nested(path, value))
    assert f"spec.{path}: cannot be changed after creation" in refused.value.stderr


@pytest.mark.parametrize("path", ["lora", "model", "resources.processesPerNode", "storage.storageClassName"])
def test_fixed_field_cannot_be_removed(cluster: Cluster, namespace: str, path: str) -> None:
    with pytest.raises(CommandError) as refused:
        patched(cluster, namespace, nested(path, None))
    assert f"spec.{path}: cannot be changed after creation" in refused.value.stderr


@pytest.mark.parametrize(
    ("path", "value"),
    {
        "runPolicy.suspend": False,
        "runPolicy.restartLimit": 9,
        "resources.cpu": "2",
        "resources.tolerations": [{"operator": "Exists"}],
        "image": "example.com/trainer:2",
        "env": [{"name": "A"}],
        "queueName": "team",
        "runPolicy.stallTimeout": "5m",
        "podTemplate.schedulerName": "volcano",
    }.items(),
)
def test_what_may_change_is_changed(cluster: Cluster, namespace: str, path: str, value: object) -> None:
    spec = patched(cluster, namespace, nested(path, value))["spec"]
    for part in path.split("."):
        spec = spec[part]
    assert json.dumps(value)[:-2] in json.dumps(spec)


def nested(path: str, value: object) -> dict[str, Any]:
    """A patch of one field of spec."""
    for part in reversed(f"spec.{path}".split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def test_every_field_of_status_is_kept(cluster: Cluster, namespace: str) -> None:
    document = patched(cluster, namespace, {"status": STATUS}, "--subresource=status")
    assert {name: document["status"].get(name) for name in STATUS} == STATUS


def test_status_and_spec_are_written_apart(cluster: Cluster, namespace: str) -> None:
    through_status = patched(cluster, namespace, {"spec": {"image": "a"}}, "--subresource=status")
    assert "image" not in through_status["spec"]
    through_spec = patched(cluster, namespace, {"status": {"attempt": 77}})
    assert through_spec.get("status", {}).get("attempt") != 77


def test_unknown_phase_is_refused(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(CommandError, match=r"status\.phase"):
        patched(cluster, namespace, {"status": {"phase": "Dreaming"}}, "--subresource=status")


def test_columns_show_status_as_text(cluster: Cluster, namespace: str) -> None:
    response: Any = client.CustomObjectsApi(cluster.api).patch_namespaced_custom_object_status(
        names.GROUP,
        names.VERSION,
        namespace,
        names.PLURAL,
        "digits",
        {"status": STATUS},
        dry_run="All",
        _content_type="application/merge-patch+json",
        _headers={"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"},
    )
    definitions = response["columnDefinitions"]
    assert [column["name"] for column in definitions if column["priority"] == 0] == COLUMNS
    assert [column["name"] for column in definitions if column["priority"] == 1] == WIDE_COLUMNS
    cells = dict(zip([column["name"] for column in definitions], response["rows"][0]["cells"], strict=True))
    del cells["Age"]
    assert cells == {
        "Name": "digits",
        "Method": "lora",
        "Task": "jsonl",
        "GPUs": "2x1 CPU",
        "Phase": "Running",
        "Progress": "120/400 (30%)",
        "ETA": "4m10s",
        "Loss": "0.3127",
        "Score": "0.964",
        "Restarts": 1,
        "Images/s": "31.7",
        "MFU": "51%",
        "Checkpoint": "step 100",
        "Product": "CPU",
        "Image": "localhost/phitune/trainer:1",
    }


@pytest.mark.parametrize("name", ["ftj", "finetunejob", "finetunejobs", "ml"])
def test_short_name_and_category_find_it(cluster: Cluster, namespace: str, name: str) -> None:
    assert "digits" in cluster.kubectl("get", name, "--namespace", namespace)


def test_explain_describes_a_field(cluster: Cluster, namespace: str) -> None:
    text = cluster.kubectl("explain", "ftj.spec.lora.rank")
    assert "Width of the two adapter matrices" in " ".join(text.split())


def test_two_managers_own_their_variables(cluster: Cluster, namespace: str) -> None:
    """Server-side apply merges env by name: one manager's variable does not remove the other's."""

    def apply(manager: str, variable: str) -> None:
        document = job(SPEC, metadata={"name": "shared"})
        document["spec"]["env"] = [{"name": variable, "value": manager}]
        options = ["--server-side", "--field-manager", manager, "--namespace", namespace, "-f", "-"]
        cluster.kubectl("apply", *options, stdin=json.dumps(document))

    apply("first", "A")
    apply("second", "B")
    found = cluster.get("ftj", "shared", namespace)
    assert found is not None
    assert found["spec"]["env"] == [{"name": "A", "value": "first"}, {"name": "B", "value": "second"}]


LONG, OURS = {"name": "LONG", "value": "x" * 9000}, {"name": "PHITUNE_OURS", "value": "1"}
"""A variable beyond a bound, and one against a rule."""


@contextmanager
def other_rules(cluster: Cluster) -> Iterator[None]:
    """The CRD of a release that accepts those variables, and then this one's again."""
    crd = json.loads(cluster.kubectl("get", "crd", CRD, "--output", "json", "--show-managed-fields"))
    managers = crd["metadata"].pop("managedFields")
    # As whoever has applied it, and could not upgrade it past the changes of another.
    owner = next(entry["manager"] for entry in managers if entry["operation"] == "Apply")
    for given in ("uid", "resourceVersion", "creationTimestamp", "generation"):
        del crd["metadata"][given]
    del crd["status"]
    env = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["env"]
    value, validation = env["items"]["properties"]["value"], env["items"]["x-kubernetes-validations"][0]
    bound, rule = value["maxLength"], validation["rule"]

    def set_rules(max_length: int, cel: str) -> None:
        value["maxLength"], validation["rule"] = max_length, cel
        options = ("--server-side", "--field-manager", owner, "--filename", "-")
        cluster.kubectl("apply", *options, stdin=json.dumps(crd))

    set_rules(10_000, "true")
    try:
        yield
    finally:
        set_rules(bound, rule)


def test_a_job_that_newer_rules_refuse_takes_its_status_and_no_change_of_what_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    def is_accepted(name: str) -> bool:
        document = job({**SPEC, "env": [LONG, OURS]}, metadata={"name": name})
        try:
            cluster.apply(document, namespace=namespace)
        except CommandError:
            return False
        return True

    def patched_one(patch: dict[str, Any], *options: str) -> None:
        where = ("ftj", "begun-before", "--namespace", namespace, "--type", "merge")
        cluster.kubectl("patch", *where, "--patch", json.dumps(patch), *options)

    with other_rules(cluster):
        wait_for(lambda: is_accepted("begun-before") or None, 30, lambda: "still refused")
    wait_for(lambda: not is_accepted(f"new-{time.time_ns()}") or None, 30, lambda: "still accepted")
    patched_one({"status": STATUS}, "--subresource=status")
    patched_one({"spec": {"runPolicy": {"restartLimit": 4}}})
    for changed, why in ((LONG, "8192"), (OURS, "are the operator's")):
        with pytest.raises(CommandError, match=why):
            patched_one({"spec": {"env": [{**changed, "value": changed["value"] + "2"}]}})
