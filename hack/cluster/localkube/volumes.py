"""Volumes for claims: a folder of this machine that all nodes see, made and removed with its claim.

`up` starts this module as a process of its own, a provisioner for two storage classes:
  local-rwx  (default) any access mode, bound at once: shared by all nodes
  local-rwo  ReadWriteOnce only, made when its first pod is scheduled, and tied to that pod's node

Annotations of a claim turn its folder into a file system of its own, to try what happens when it is full or
broken. Both may change while the volume is in use:
  local.phitune.dev/size-limit: 50Mi
  local.phitune.dev/read-only: "true"    (together with a size limit)
"""

import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import cgroups
from .api import Api, ApiError, Object, UnreachableError
from .console import ClusterError
from .mounts import is_mount
from .paths import Paths
from .plan import PREFIX, Cluster
from .processes import Daemon
from .rights import cluster_role
from .shell import CommandError, run

PROVISIONER = f"local.{PREFIX}.dev/folders"
SHARED, SINGLE = "local-rwx", "local-rwo"
SIZE_LIMIT = f"local.{PREFIX}.dev/size-limit"
READ_ONLY = f"local.{PREFIX}.dev/read-only"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
RESYNC_SECONDS = 30
_SIZE = re.compile(r"\d+(Ki|Mi|Gi)?")


def daemon(cluster: Cluster, paths: Paths) -> Daemon:
    """The provisioner's process."""
    package = Path(__file__).resolve().parent
    return Daemon(
        "volumes",
        [sys.executable, "-m", f"{package.name}.volumes", paths.state, cluster.control_address.compressed],
        groups=cgroups.process_files(cluster.control_cgroup),
        files=sorted(package.glob("*.py")),
        environment={"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def prepare(paths: Paths) -> None:
    """The folder of all volumes, a mount that passes on what is mounted in it: to every node."""
    paths.volumes.mkdir(parents=True, exist_ok=True)
    if not is_mount(paths.volumes):
        run(["mount", "--bind", paths.volumes, paths.volumes])
        run(["mount", "--make-shared", paths.volumes])


def objects() -> list[Object]:
    """The storage classes and the provisioner's rights."""
    rules = [
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": [""],
            "resources": ["persistentvolumes"],
            "verbs": ["get", "list", "watch", "create", "delete"],
        },
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    user = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "local-volumes"}
    return [
        _storage_class(SHARED, "Immediate", is_default=True),
        _storage_class(SINGLE, "WaitForFirstConsumer", is_default=False),
        *cluster_role("local:volumes", rules, user),
    ]


def _storage_class(name: str, binding: str, *, is_default: bool) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": name,
            "annotations": {"storageclass.kubernetes.io/is-default-class": str(is_default).lower()},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": binding,
    }


class RefusedError(ClusterError):
    """The claim asks for what its class does not give; said in an event on it."""


def volume_name(claim: Object) -> str:
    """Name of the claim's PersistentVolume."""
    return f"pvc-{claim['metadata']['uid']}"


def folder_name(claim: Object) -> str:
    """Name of the claim's folder."""
    meta = claim["metadata"]
    return f"{meta['namespace']}-{meta['name']}-{meta['uid']}"


def is_wanted(claim: Object) -> bool:
    """Waits for a volume of ours, and for nothing else any more."""
    spec, annotations = claim["spec"], _annotations(claim)
    if spec.get("volumeName") or spec.get("storageClassName") not in (SHARED, SINGLE):
        return False
    if claim["metadata"].get("deletionTimestamp"):
        return False
    return spec["storageClassName"] == SHARED or SELECTED_NODE in annotations


def volume_for(claim: Object, folder: Path) -> Object:
    """The PersistentVolume that satisfies a claim."""
    meta, spec = claim["metadata"], claim["spec"]
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        raise RefusedError(f"volumeMode {spec['volumeMode']}: only Filesystem is provided")
    if spec.get("selector"):
        raise RefusedError("selector: volumes are made for a claim, so there is nothing to select from")
    volume: dict[str, Any] = {
        "accessModes": spec["accessModes"],
        "capacity": {"storage": spec["resources"]["requests"]["storage"]},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
        "hostPath": {"path": str(folder), "type": "Directory"},
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": spec["storageClassName"],
    }
    if spec["storageClassName"] == SINGLE:
        if spec["accessModes"] != ["ReadWriteOnce"]:
            raise RefusedError(
                f"access modes {', '.join(spec['accessModes'])}: {SINGLE} gives only ReadWriteOnce"
            )
        # A folder could be mounted anywhere; this is what holds it to one node.
        here = {
            "key": "kubernetes.io/hostname",
            "operator": "In",
            "values": [meta["annotations"][SELECTED_NODE]],
        }
        volume["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim), "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": volume,
    }


def mount_options(annotations: Mapping[str, str]) -> str | None:
    """Options of the file system that a claim's annotations ask for; None for a plain folder."""
    size, read_only = annotations.get(SIZE_LIMIT), annotations.get(READ_ONLY, "false")
    if read_only not in ("true", "false"):
        raise RefusedError(f'{READ_ONLY}: "true" or "false", got {read_only!r}')
    if size is None:
        if read_only == "true":
            raise RefusedError(
                f"{READ_ONLY}: needs {SIZE_LIMIT} as well, which makes a file system of the folder"
            )
        return None
    if not _SIZE.fullmatch(size):
        raise RefusedError(f"{SIZE_LIMIT}: a number with Ki, Mi or Gi, got {size!r}")
    return f"size={size.removesuffix('i')},mode=1777,{'ro' if read_only == 'true' else 'rw'}"


@dataclass
class Provisioner:
    """Brings folders and PersistentVolumes to what the claims ask for; safe to repeat at any time."""

    api: Api
    root: Path
    mounted: dict[str, str] = field(default_factory=dict)
    """Folder to the options it was last mounted with."""
    refused: dict[str, str] = field(default_factory=dict)
    """Claim's uid to the last refusal, so that each is said once."""

    def settle(self) -> None:
        """One pass over all claims and volumes."""
        claims = self.api.items(CLAIMS)
        volumes = self.api.items(VOLUMES)
        for claim in claims:
            try:
                if is_wanted(claim):
                    self.provide(claim)
                elif claim["spec"].get("storageClassName") in (SHARED, SINGLE) and claim["spec"].get(
                    "volumeName"
                ):
                    self.mount(claim)
            except RefusedError as problem:
                self.refuse(claim, str(problem))
        for volume in volumes:
            is_ours = volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
            if is_ours and volume.get("status", {}).get("phase") == "Released":
                self.reclaim(volume)

    def provide(self, claim: Object) -> None:
        """The folder, then the PersistentVolume that names it."""
        folder = self.root / folder_name(claim)
        volume = volume_for(claim, folder)
        mount_options(_annotations(claim))
        folder.mkdir(exist_ok=True)
        # Not the mode of mkdir, from which the umask is taken. A hostPath knows no fsGroup, so all may write.
        folder.chmod(0o1777)
        self.mount(claim)
        try:
            self.api.create(VOLUMES, volume)
        except ApiError as problem:
            if problem.status == 409:
                return
            raise
        say(f"{volume['metadata']['name']} for claim {_full_name(claim)}")

    def mount(self, claim: Object) -> None:
        """Mount the claim's folder as its annotations say, or change how it is mounted."""
        folder = self.root / folder_name(claim)
        options = mount_options(_annotations(claim))
        if options is None or self.mounted.get(str(folder)) == options or not folder.exists():
            return
        try:
            if not is_mount(folder):
                if claim["spec"].get("volumeName"):
                    raise RefusedError(
                        f"{SIZE_LIMIT}: must be there when the claim is made; its volume is a plain folder"
                    )
                # Writable at first: the nodes' copies of a mount that began read-only would stay so for ever.
                run(["mount", "-t", "tmpfs", "tmpfs", folder])
            run(["mount", "-o", f"remount,{options}", folder])
        except CommandError as problem:
            raise RefusedError(str(problem)) from problem
        self.mounted[str(folder)] = options
        say(f"{folder.name} mounted with {options}")

    def reclaim(self, volume: Object) -> None:
        """Remove the folder, then the PersistentVolume."""
        folder = Path(volume["spec"]["hostPath"]["path"])
        if folder.parent != self.root:
            raise ClusterError(
                f"volume {volume['metadata']['name']} names {folder}, which is not ours to remove"
            )
        if is_mount(folder):
            run(["umount", "--lazy", folder])
        if folder.exists():
            shutil.rmtree(folder)
        self.mounted.pop(str(folder), None)
        self.api.delete(f"{VOLUMES}/{volume['metadata']['name']}")
        say(f"{volume['metadata']['name']} removed")

    def refuse(self, claim: Object, reason: str) -> None:
        """Say in an event on the claim why it gets no volume."""
        meta = claim["metadata"]
        if self.refused.get(meta["uid"]) == reason:
            return
        self.refused[meta["uid"]] = reason
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "type": "Warning",
            "reason": "ProvisioningFailed",
            "message": reason,
            "source": {"component": PROVISIONER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self.api.create(f"/api/v1/namespaces/{meta['namespace']}/events", event)
        say(f"refused {_full_name(claim)}: {reason}")


def _annotations(claim: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = claim["metadata"].get("annotations", {})
    return found


def _full_name(claim: Object) -> str:
    return f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"


def say(text: str) -> None:
    """A line for the log."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _announce_changes(api: Api, path: str, changed: threading.Event) -> None:
    """Set the event at every change, for ever. What changed is found out by listing."""
    while True:
        try:
            for _ in api.watch(path, seconds=300):
                changed.set()
        except (ApiError, UnreachableError) as problem:
            say(str(problem))
            time.sleep(1.0)
        changed.set()


def main(state: str, address: str) -> None:
    """Provide volumes until stopped."""
    paths = Paths(Path(state))
    pki = paths.pki
    api = Api(address, pki / "ca.crt", pki / "volumes.crt", pki / "volumes.key")
    changed = threading.Event()
    for path in (CLAIMS, VOLUMES):
        threading.Thread(target=_announce_changes, args=(api, path, changed), daemon=True).start()
    provisioner = Provisioner(api, paths.volumes)
    while True:
        changed.wait(timeout=RESYNC_SECONDS)
        changed.clear()
        try:
            provisioner.settle()
        except (ClusterError, OSError) as problem:
            say(f"will try again: {problem}")
            time.sleep(1.0)
            changed.set()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
