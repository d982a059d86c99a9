"""The Kubeflow training-operator, for PyTorchJobs only: upstream's manifests with our changes."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping

from . import pki
from .build import Programs
from .console import ClusterError
from .images import BUSYBOX
from .paths import Paths, write_atomically
from .pods import CONFIG_ANNOTATION, restricted, tolerations

NAMESPACE, NAME = "kubeflow", "training-operator"

INIT_CONTAINER = """\
- name: init-pytorch
  image: {{.InitContainerImage}}
  imagePullPolicy: IfNotPresent
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: 65532
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  # The output and not the exit status: busybox says 1 as soon as one search domain has no such name.
  command:
  - sh
  - -c
  - |
    n=0
    until nslookup {{.MasterAddr}} | grep -q ^Name:; do
      n=$((n+1))
      [ $n -ge {{.MaxTries}} ] && exit 1
      sleep 1
    done
"""
"""The operator's own template lacks a securityContext: a `restricted` namespace would refuse every worker."""


def manifest(paths: Paths, programs: Programs, image: str) -> str:
    """Upstream's manifests with our changes, put together by kubectl's own kustomize."""
    folder = paths.config / "training-operator"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(programs.manifests("training-operator"), folder / "upstream")
    for name, content in kustomization_files(image, pki.webhook_secret(paths)).items():
        write_atomically(folder / name, content)
    done = subprocess.run(
        [str(programs.path("kubectl")), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"kubectl kustomize: {done.stderr.strip()}")
    return done.stdout


def kustomization_files(image: str, certificates: Mapping[str, str]) -> dict[str, str]:
    """What is laid beside upstream's folder: our objects, and our changes to theirs."""
    container = {
        "name": NAME,
        "image": image,
        "args": [
            "--enable-scheme=pytorchjob",
            f"--pytorch-init-container-image={BUSYBOX}",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--controller-threads=4",
        ],
        "securityContext": restricted(),
        "readinessProbe": {"initialDelaySeconds": 0, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "init-container", "mountPath": "/etc/config", "readOnly": True}],
    }
    template = {
        "metadata": {
            # The template is read once, at the start.
            "annotations": {
                CONFIG_ANNOTATION: hashlib.sha256(INIT_CONTAINER.encode()).hexdigest()[:12],
            },
        },
        "spec": {
            "tolerations": tolerations(seconds=5),
            "containers": [container],
            "volumes": [{"name": "init-container", "configMap": {"name": "init-container"}}],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {"template": template},
    }
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "init-container"},
            "data": {"initContainer.yaml": INIT_CONTAINER},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "training-operator-webhook-cert"},
            "data": dict(certificates),
        },
    ]
    base = "upstream/base"
    resources = ["crds/kubeflow.org_pytorchjobs.yaml", "webhook", "service.yaml", "deployment.yaml"]
    rights = [f"rbac/{file}.yaml" for file in ("cluster-role-binding", "role", "service-account")]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["objects.json", *(f"{base}/{resource}" for resource in [*resources, *rights])],
        "patches": [{"patch": json.dumps(deployment)}],
    }
    return {
        "kustomization.yaml": json.dumps(kustomization, indent=2),
        "objects.json": json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2),
    }
