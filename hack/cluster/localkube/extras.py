"""What a cluster has on demand: JobSet, Kubeflow Trainer and Kueue, by upstream's own manifests."""

import json
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from .api import Object
from .build import Programs
from .console import ClusterError
from .images import extra_image
from .paths import Paths, write_atomically

FEW_RESOURCES: Object = {"requests": {"cpu": "10m", "memory": "64Mi"}}
"""Upstream asks for half a processor, which a small machine does not have for everybody."""


@dataclass(frozen=True)
class Installer:
    """How one extra piece is installed."""

    deployment: tuple[str, str]
    """Namespace and name of what must be available."""
    manifest: Callable[[Paths, Programs], str]
    needs: tuple[str, ...] = ()
    """Pieces that it does not work without."""


def with_needs(names: Collection[str]) -> list[str]:
    """The pieces that are named, and before them those that they need."""
    needed = {need for name in names if name in INSTALLERS for need in INSTALLERS[name].needs}
    return [*sorted(needed - set(names)), *names]


def manifest(name: str, paths: Paths, programs: Programs) -> str:
    """Everything of a piece, its namespace first."""
    installer = INSTALLERS[name]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": installer.deployment[0]}}
    return f"{json.dumps(namespace)}\n---\n{installer.manifest(paths, programs)}"


def _jobset(paths: Paths, programs: Programs) -> str:
    repository, tag = extra_image("jobset", programs).rsplit(":", 1)
    values: Object = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "controller": {"resources": FEW_RESOURCES},
    }
    # The chart leaves the namespace of one object to helm's installer.
    write_atomically(paths.config / "jobset" / "chart.yaml", _chart("jobset", values, programs))
    kustomization = {"namespace": INSTALLERS["jobset"].deployment[0], "resources": ["chart.yaml"]}
    return _kustomized(paths.config / "jobset", kustomization, programs)


def _kueue(_: Paths, programs: Programs) -> str:
    repository, tag = extra_image("kueue", programs).rsplit(":", 1)
    manager = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "resources": FEW_RESOURCES,
    }
    probe = {"initialDelaySeconds": 1, "periodSeconds": 1}
    return _chart("kueue", {"controllerManager": {"manager": manager, "readinessProbe": probe}}, programs)


def _chart(name: str, values: Object, programs: Programs) -> str:
    """What the chart in a piece's module makes of our values."""
    namespace = INSTALLERS[name].deployment[0]
    command = [str(programs.path("helm")), "template", name, str(programs.manifests(name))]
    return _run([*command, "--namespace", namespace, "--include-crds", "--values", "-"], json.dumps(values))


def _trainer(paths: Paths, programs: Programs) -> str:
    """Upstream's parts without its own JobSet, put together by kubectl's kustomize."""
    folder = paths.config / "trainer"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(programs.manifests("trainer"), folder / "upstream")
    namespace, name = INSTALLERS["trainer"].deployment
    container = {
        "name": "manager",
        "image": extra_image("trainer", programs),
        "imagePullPolicy": "IfNotPresent",
        "readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 1},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kubeflow-trainer-webhook-cert"}}
    parts = [f"upstream/{part}" for part in ("crds", "manager", "rbac", "webhook")]
    kustomization = {
        "namespace": namespace,
        "resources": ["secret.json", *parts],
        "patches": [{"patch": json.dumps(deployment)}],
    }
    write_atomically(folder / "secret.json", json.dumps(secret))
    return _kustomized(folder, kustomization, programs)


def _kustomized(folder: Path, kustomization: Object, programs: Programs) -> str:
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    write_atomically(folder / "kustomization.yaml", json.dumps({**kind, **kustomization}))
    return _run([str(programs.path("kubectl")), "kustomize", str(folder)])


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


INSTALLERS = {
    "jobset": Installer(("jobset-system", "jobset-controller"), _jobset),
    "trainer": Installer(("kubeflow-system", "kubeflow-trainer-controller-manager"), _trainer, ("jobset",)),
    "kueue": Installer(("kueue-system", "kueue-controller-manager"), _kueue),
}
"""In the order in which they are installed."""
