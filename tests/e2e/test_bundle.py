"""A bundle on a node that has no registry: unpacked, loaded by its own script, and run as restricted pods."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY, Cluster, Object, run
from harness.provision import hack_cluster

pytestmark = pytest.mark.timeout(900)

NODE, ANY_UID = "node-1", 54321
TAG = f"of-a-bundle-{secrets.token_hex(4)}"
"""Of this run: another one beside it has the same cache."""
LOOKS = """
import importlib, json, os, shutil, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
try:
    open("/opt/phitune/new", "w").close()
    is_read_only = False
except OSError:
    is_read_only = True
(capabilities,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
compilers = [name for name in ("cc", "gcc", "g++", "c++", "clang", "nvcc", "make") if shutil.which(name)]
print(json.dumps({"uid": os.getuid(), "isReadOnly": is_read_only, "capabilities": int(capabilities, 16),
                  "compilers": compilers, "hasShell": os.access("/bin/sh", os.X_OK)}))
"""


@pytest.fixture(scope="module")
def names(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The images of a bundle, which its script has loaded into a node."""
    if cluster.state is None:
        pytest.skip("the nodes have to be on this machine")
    folder = tmp_path_factory.mktemp("bundle")
    bundle = folder / "phitune-bundle.tar"
    build = [sys.executable, str(REPOSITORY / "hack/images"), "build", "--tag", TAG, "--bundle", str(bundle)]
    for image in json.loads(run([*build, "--json"], timeout=1800)):
        for leftover in (image["archive"], image["sbom"]):
            Path(leftover).unlink()
    run(["tar", "-xf", str(bundle), "-C", str(folder)])
    bundle.unlink()
    on_node = hack_cluster("node", "--state", str(cluster.state), NODE, "exec", "--")
    run([*on_node, str(folder / "load")])
    names = (folder / "images.txt").read_text().split()
    yield names
    run([*on_node, "ctr", "images", "rm", *names])


def test_every_image_of_a_bundle_is_on_the_node_under_its_name(cluster: Cluster, names: list[str]) -> None:
    assert names == [f"localhost/phitune/{image}:{TAG}" for image in ("operator", "trainer")]
    there = run(
        hack_cluster("node", "--state", str(cluster.state), NODE, "exec", "--", "ctr", "images", "ls", "-q")
    )
    assert set(names) <= set(there.split())


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("operator", ["phitune_operator.main", "kopf", "kubernetes"]),
        ("trainer", ["phitune_trainer.train", "torch", "transformers", "peft", "deepspeed"]),
    ],
)
def test_loaded_image_runs_under_any_uid_without_a_shell_or_a_disk_to_write_to(
    cluster: Cluster, namespace: str, names: list[str], image: str, modules: list[str]
) -> None:
    (name,) = [name for name in names if f"/{image}:" in name]
    cluster.apply(pod(name, modules), namespace=namespace)
    cluster.kubectl(
        "wait", "pod/looks", "-n", namespace, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"
    )
    found = json.loads(cluster.kubectl("logs", "looks", "-n", namespace).splitlines()[-1])
    assert found == {
        "uid": ANY_UID,
        "isReadOnly": True,
        "capabilities": 0,
        "compilers": [],
        "hasShell": False,
    }


def pod(image: str, modules: list[str]) -> Object:
    """A pod as restricted as those of the product, in whose image each shell is an empty file."""
    nothing = [
        {"name": "empty", "mountPath": f"/usr/bin/{shell}", "subPath": "shell"} for shell in ("bash", "dash")
    ]
    container = {
        "name": "looks",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", LOOKS, *modules],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [*nothing, {"name": "tmp", "mountPath": "/tmp"}],
    }
    labels = {"shell": ""}
    shell = {"path": "shell", "fieldRef": {"fieldPath": "metadata.labels['shell']"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "looks", "labels": labels},
        "spec": {
            "nodeName": NODE,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": ANY_UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "empty", "downwardAPI": {"items": [shell]}},
            ],
        },
    }
