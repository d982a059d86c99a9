"""Every pod that we ever ask for is admitted where Pod Security `restricted` is enforced.

Pod Security only warns about the templates of Deployments, Jobs and PyTorchJobs. So each template is sent as
the pod that will be made from it, and the API server decides without keeping it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY, Cluster, CommandError, Object, run
from harness.jobs import finetunejob

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
PHITUNE = [sys.executable, "-m", "phitune_cli.main"]
KINDS_OF_EACH_JOB = ["ConfigMap", "Job", "PyTorchJob"]


def rendered(namespace: str, *files: Path) -> list[Object]:
    text = run([*PHITUNE, "render", *map(str, files), "--namespace", namespace])
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


def admit(cluster: Cluster, namespace: str, *objects: Object) -> None:
    """Ask the API server whether it would take them all; CommandError names those that it refuses."""
    sent = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(sent))


def pods_of(objects: list[Object]) -> list[Object]:
    """A pod of every template, as a controller would make it."""
    return [as_pod(template) for found in objects for template in pod_templates(found)]


def as_pod(template: Object) -> Object:
    spec = {name: value for name, value in template["spec"].items() if name != "serviceAccountName"}
    labels = template.get("metadata", {}).get("labels", {})
    metadata = {"generateName": "sent-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_there_are_examples() -> None:
    assert "digits.yaml" in [file.name for file in EXAMPLES]


def test_api_server_takes_everything_that_the_examples_render_to(cluster: Cluster, namespace: str) -> None:
    objects = rendered(namespace, *EXAMPLES)
    kinds = Counter(found["kind"] for found in objects)
    assert {kind: kinds[kind] for kind in KINDS_OF_EACH_JOB} == dict.fromkeys(
        KINDS_OF_EACH_JOB, len(EXAMPLES)
    )
    admit(cluster, namespace, *objects)


def test_every_pod_of_the_examples_is_admitted(cluster: Cluster, namespace: str) -> None:
    pods = pods_of(rendered(namespace, *EXAMPLES))
    assert len(pods) >= 2 * len(EXAMPLES), "one to prepare, one or more to train"
    admit(cluster, namespace, *pods)


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
    objects = rendered(namespace, file)
    admit(cluster, namespace, *objects, *pods_of(objects))


def test_every_pod_of_the_chart_is_admitted(cluster: Cluster, namespace: str) -> None:
    text = cluster.helm("template", "phitune", str(REPOSITORY / "charts/phitune"), "--namespace", namespace)
    pods = pods_of([found for found in yaml.safe_load_all(text) if found])
    assert len(pods) == 2, "the operator's, and that of `helm test`"
    admit(cluster, namespace, *pods)


def test_a_pod_that_asks_for_more_is_refused(cluster: Cluster, namespace: str) -> None:
    """The tests above could not fail if the namespace enforced nothing."""
    container = {"name": "c", "image": "localhost/busybox:1", "securityContext": {"privileged": True}}
    with pytest.raises(CommandError, match="restricted"):
        admit(cluster, namespace, *pods_of([{"spec": {"containers": [container]}}]))
