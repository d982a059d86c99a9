"""How a cluster is: every process, node and Deployment, for people and for programs."""

from dataclasses import dataclass
from typing import Any

from . import addons, network, processes
from . import node as nodes
from .api import Api, Object
from .gpus import RESOURCE
from .paths import Paths
from .plan import Cluster

CONTROL = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "volumes")
PER_NODE = ("mounts", "containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class Status:
    """A look at everything."""

    cluster: Cluster
    kubeconfig: str
    processes: list[Object]
    nodes: list[Object]
    deployments: list[Object]

    def is_healthy(self) -> bool:
        """Every process alive, every node Ready and connected, every Deployment available."""
        parts = [
            all(process["alive"] for process in self.processes),
            all(node["ready"] and not node["cut"] for node in self.nodes),
            all(deployment["available"] for deployment in self.deployments),
        ]
        return all(parts)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.cluster.name,
            "healthy": self.is_healthy(),
            "server": self.cluster.server,
            "kubeconfig": self.kubeconfig,
            "subnet": str(self.cluster.subnet),
            "processes": self.processes,
            "nodes": self.nodes,
            "deployments": self.deployments,
        }

    def lines(self) -> list[str]:
        """For people."""
        title = (
            f"{self.cluster.name}: {'healthy' if self.is_healthy() else 'NOT healthy'}, {self.cluster.server}"
        )
        rows = [title, f"  export KUBECONFIG={self.kubeconfig}"]
        for node in self.nodes:
            words = ["Ready" if node["ready"] else "NOT Ready"]
            words += ["cable cut"] if node["cut"] else []
            words += [f"{node['gpus']} x {node['gpuProduct']}"] if node["gpus"] else []
            rows.append(f"  node        {node['name']:<32} {node['address']:<16} {', '.join(words)}")
        for deployment in self.deployments:
            words = ["available" if deployment["available"] else "NOT available"]
            rows.append(f"  deployment  {deployment['name']:<49} {words[0]}")
        for process in self.processes:
            state = f"{process['seconds']:.0f} s" if process["alive"] else "DEAD"
            rows.append(f"  process     {process['name']:<32} {process['pid'] or '-':<16} {state}")
        return rows


def look(cluster: Cluster, paths: Paths) -> Status:
    """Look at everything now; a dead part is reported, not an error."""
    names = [*CONTROL, *(f"{node.name}-{name}" for node in cluster.nodes for name in PER_NODE)]
    api = Api.of(cluster, paths)
    answers = paths.pki.exists() and api.is_ready()
    return Status(
        cluster,
        str(paths.kubeconfig),
        [_process(name, paths) for name in names],
        _nodes(cluster, paths, api if answers else None),
        [_deployment(*where, api if answers else None) for where in addons.deployments(cluster)],
    )


def _process(name: str, paths: Paths) -> Object:
    record = processes.read(paths.processes, name)
    if record is None:
        return {"name": name, "alive": False, "pid": None, "seconds": None}
    alive = record.is_alive()
    age = record.identity.seconds() if alive else None
    return {"name": name, "alive": alive, "pid": record.identity.pid, "seconds": age}


def _nodes(cluster: Cluster, paths: Paths, api: Api | None) -> list[Object]:
    known = {item["metadata"]["name"]: item for item in api.items("/api/v1/nodes")} if api else {}
    found: list[Object] = []
    for node in cluster.nodes:
        item = known.get(node.name, {})
        gpus = int(item.get("status", {}).get("allocatable", {}).get(RESOURCE, 0))
        found.append(
            {
                "name": node.name,
                "address": str(node.address),
                "podSubnet": str(node.pod_subnet),
                "ready": nodes.is_ready(item),
                "cut": network.is_cut(node, paths),
                "kubelet": item.get("status", {}).get("nodeInfo", {}).get("kubeletVersion"),
                "gpus": gpus,
                "gpuProduct": cluster.gpus[node.name].product if gpus and node.name in cluster.gpus else None,
            }
        )
    return found


def _deployment(namespace: str, name: str, api: Api | None) -> Object:
    available = api is not None and addons.is_available(api, namespace, name)
    return {"namespace": namespace, "name": name, "available": available}
