"""Every pod that we ever ask for is admitted where Pod Security `restricted` is enforced.

Pod Security only warns about the templates of Deployments, Jobs and PyTorchJobs. So each template is sent as
the pod that will be made from it, and the API server decides without keeping it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY, Cluster, CommandError, Object, run
from harness.jobs import finetunejob

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
PHITUNE = [sys.executable, "-m", "phitune_cli.main"]
KINDS_FROM_ONE_JOB = ["ConfigMap", "Job", "PersistentVolumeClaim", "PyTorchJob"]


def rendered(file: Path, namespace: str) -> list[Object]:
    text = run([*PHITUNE, "render", str(file), "--namespace", namespace])
    return [found for found in yaml.safe_load_all(text) if found]


def pod_templates(value: Any) -> Iterator[Object]:
    """Every pod template anywhere in an object."""
    if isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
            yield value
        else:
            for inner in value.values():
                yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


def admit(cluster: Cluster, namespace: str, template: Object) -> None:
    """Ask the API server for a pod of this template; CommandError if it refuses."""
    spec = {name: value for name, value in template["spec"].items() if name != "serviceAccountName"}
    labels = template.get("metadata", {}).get("labels", {})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sent", "labels": labels}, "spec": spec}
    cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(pod))


def test_there_are_examples() -> None:
    assert "digits.yaml" in [file.name for file in EXAMPLES]


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.name for file in EXAMPLES])
def test_api_server_takes_everything_that_an_example_renders_to(
    cluster: Cluster, namespace: str, file: Path
) -> None:
    objects = rendered(file, namespace)
    assert [kind for kind in KINDS_FROM_ONE_JOB if kind not in {found["kind"] for found in objects}] == []
    for found in objects:
        cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(found))


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.name for file in EXAMPLES])
def test_every_pod_of_an_example_is_admitted(cluster: Cluster, namespace: str, file: Path) -> None:
    templates = [template for found in rendered(file, namespace) for template in pod_templates(found)]
    assert len(templates) >= 2, "one to prepare, one or more to train"
    for template in templates:
        admit(cluster, namespace, template)


def test_every_wish_of_a_pod_template_is_taken(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    when = "DuringSchedulingIgnoredDuringExecution"
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    beside = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "cache"}}}
    pods = {f"required{when}": [beside], f"preferred{when}": [{"weight": 1, "podAffinityTerm": beside}]}
    nodes = {
        f"required{when}": {"nodeSelectorTerms": [zone]},
        f"preferred{when}": [{"weight": 1, "preference": zone}],
    }
    wishes = {
        "labels": {"team": "x"},
        "annotations": {"example.com/note": "anything at all"},
        "affinity": {"nodeAffinity": nodes, "podAffinity": pods, "podAntiAffinity": pods},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        "schedulerName": "volcano",
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(finetunejob("wishes", {"podTemplate": wishes})))
    objects = rendered(file, namespace)
    for found in objects:
        cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(found))
    for template in (template for found in objects for template in pod_templates(found)):
        admit(cluster, namespace, template)


def test_every_pod_of_the_chart_is_admitted(cluster: Cluster, namespace: str) -> None:
    text = cluster.helm("template", "phitune", str(REPOSITORY / "charts/phitune"), "--namespace", namespace)
    templates = [template for found in yaml.safe_load_all(text) if found for template in pod_templates(found)]
    assert len(templates) == 1
    for template in templates:
        admit(cluster, namespace, template)


def test_a_pod_that_asks_for_more_is_refused(cluster: Cluster, namespace: str) -> None:
    """The tests above could not fail if the namespace enforced nothing."""
    container = {"name": "c", "image": "localhost/busybox:1", "securityContext": {"privileged": True}}
    with pytest.raises(CommandError, match="restricted"):
        admit(cluster, namespace, {"spec": {"containers": [container]}})
