"""What the benchmark puts into the cluster: nodes, the claim, jobs, and jobs that have ended. Pure."""

import json
from typing import Any

from localkube.gpus import RESOURCE, parse
from operatorbench.controlplane import FAKE_NODE
from operatorbench.stages import LABEL_END
from phitune_operator import names

Object = dict[str, Any]
NAMESPACE = "bench"
CLAIM = "workspace"
GPUS_PER_NODE = 8
GIVEN_BY_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")

JOBS = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
GANGS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"


def node(number: int) -> Object:
    """A node with eight GPUs, as GPU feature discovery labels it."""
    gpus = parse(f"H100:{GPUS_PER_NODE}")
    name = f"node-{number:04}"
    amounts = {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "4Ti", "pods": "250"}
    amounts[RESOURCE] = str(GPUS_PER_NODE)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    labels = {**gpus.labels(), "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": dict(FAKE_NODE)},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    }


def volume() -> list[tuple[str, Object]]:
    """The claim that all jobs share, with the volume that it is bound to; each with the path of its kind."""
    common: Object = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeMode": "Filesystem"}
    claim_ref = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": CLAIM}
    size = {"storage": "10Ti"}
    persistent = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": CLAIM},
        "spec": {**common, "capacity": size, "claimRef": claim_ref, "nfs": {"server": "nfs", "path": "/"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": NAMESPACE},
        "spec": {**common, "volumeName": CLAIM, "resources": {"requests": size}},
    }
    return [
        ("/api/v1/persistentvolumes", persistent),
        (f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", claim),
    ]


def job(name: str, *, ends_soon: bool = False) -> Object:
    """A FineTuneJob on one GPU, its volume the shared claim."""
    spec: Object = {
        "task": "docvqa",
        "method": "lora",
        "resources": {"nodes": 1, "gpusPerNode": 1},
        "storage": {"claimName": CLAIM},
    }
    if ends_soon:
        spec["podTemplate"] = {"labels": {LABEL_END: "soon"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def copied(obj: Object, replacements: dict[str, str]) -> Object:
    """The same object under other names and uids, as one would create it: without what the server gives."""
    text = json.dumps(obj)
    for old, new in replacements.items():
        text = text.replace(old, new)
    copy: Object = json.loads(text)
    copy["metadata"] = {
        name: value for name, value in copy["metadata"].items() if name not in GIVEN_BY_SERVER
    }
    return copy
