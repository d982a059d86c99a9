"""Every pod that we ever ask for is admitted where Pod Security `restricted` is enforced.

Pod Security only warns about the templates of Deployments, Jobs and PyTorchJobs. So each template is sent as
the pod that will be made from it, and the API server decides without keeping it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.affinity import WISHES
from harness.cluster import REPOSITORY, Cluster, CommandError, Object, run
from harness.jobs import finetunejob
from harness.pods_of_templates import pods_of

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
PHITUNE = [sys.executable, "-m", "phitune_cli.main"]
KINDS_OF_EACH_JOB = ["ConfigMap", "Job", "PyTorchJob"]


def rendered(namespace: str, *files: Path) -> list[Object]:
    text = run([*PHITUNE, "render", *map(str, files), "--namespace", namespace])
    return [found for found in yaml.safe_load_all(text) if found]


def admit(cluster: Cluster, namespace: str, *objects: Object) -> None:
    """Ask the API server whether it would take them all; CommandError names those that it refuses."""
    sent = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(sent))


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
    wishes = {
        "labels": {"team": "x"},
        "annotations": {"example.com/note": "anything at all"},
        "affinity": WISHES,
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
