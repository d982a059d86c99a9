"""Where everything of one cluster lies: one folder, which `down` removes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .console import ClusterError
from .plan import PREFIX, Cluster

BASE = Path(f"/var/tmp/{PREFIX}-cluster")  # noqa: S108 (a folder of anybody else is refused)
"""The state folders of clusters that are only named. Outside any source tree, and not emptied at a reboot."""

HIDDEN = [Path("/run"), Path("/var/run"), Path("/var/lib"), Path("/var/log")]
"""Every node has its own of these, so a state folder below them would be out of its sight."""


@dataclass(frozen=True)
class Paths:
    """The files of one cluster."""

    state: Path

    @classmethod
    def of(cls, state: Path | None, name: str) -> "Paths":
        """The folder of a cluster: the one given, else one that follows from its name."""
        folder = (state or BASE / name).expanduser().resolve()
        for hidden in HIDDEN:
            if folder.is_relative_to(hidden.resolve()):
                raise ClusterError(
                    f"--state: {folder} lies below {hidden}, which every node has its own of", 2
                )
        if folder == Path("/"):
            raise ClusterError("--state: needs a folder of its own", 2)
        return cls(folder)

    @property
    def record(self) -> Path:
        """The plan of the cluster; a folder with this file is ours."""
        return self.state / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "kubeconfig"

    @property
    def bin(self) -> Path:
        """Links to kubectl and helm."""
        return self.state / "bin"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files and kubeconfigs of the components."""
        return self.state / "config"

    @property
    def registries(self) -> Path:
        """How to reach a registry: HOST:PORT/hosts.toml, which containerd reads at every pull."""
        return self.config / "registries"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.state / "logs"

    @property
    def processes(self) -> Path:
        """One record per started process."""
        return self.state / "processes"

    @property
    def networks(self) -> Path:
        """One file per network namespace, the namespace mounted on it."""
        return self.state / "networks"

    @property
    def images(self) -> Path:
        """Archives of the images that every node starts with."""
        return self.state / "images"

    @property
    def volumes(self) -> Path:
        """The folders behind PersistentVolumes."""
        return self.state / "volumes"

    @property
    def etcd(self) -> Path:
        """The store's data."""
        return self.state / "etcd"

    def network(self, machine: str) -> Path:
        """The network namespace of a node, or of `control`."""
        return self.networks / machine

    def node(self, name: str) -> Path:
        """A node's disk: its /var/lib and /var/log."""
        return self.state / "nodes" / name

    @property
    def control_network(self) -> Path:
        """The network namespace of the control plane."""
        return self.network("control")

    def load(self) -> Cluster | None:
        """The recorded cluster, or None when there is none here."""
        if not self.record.exists():
            return None
        if self.record.stat().st_uid not in (0, os.geteuid()):
            raise ClusterError(
                f"{self.record} belongs to another user; nothing in it is believed", exit_code=2
            )
        return Cluster.from_json(json.loads(self.record.read_text()))

    def load_running(self) -> Cluster:
        """The recorded cluster, or an error."""
        cluster = self.load()
        if cluster is None:
            raise ClusterError(f"no cluster at {self.state}: bring one up with `up`", exit_code=3)
        return cluster

    def save(self, cluster: Cluster) -> None:
        """Record the cluster."""
        write_atomically(self.record, json.dumps(cluster.to_json(), indent=2) + "\n")


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """A reader, or a run after a crash, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.chmod(mode)
    aside.replace(path)
