"""What a cluster consists of, as plain data: addresses, names and nodes. Pure: no I/O, no clock.

Every name that is visible outside the cluster's own namespaces carries a tag made from its state folder. Two
clusters therefore never meet, and `down` can tell what is its own even when every record is lost.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from .console import ClusterError
from .gpus import Gpus

PREFIX = "phitune"
"""Starts every name that this package makes on the machine."""

SERVICE_SUBNET = IPv4Network("10.96.0.0/16")
"""Addresses of services. The same in every cluster: they never leave its namespaces."""
API_SERVICE_ADDRESS = SERVICE_SUBNET[1]
DNS_ADDRESS = SERVICE_SUBNET[10]
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443

SUBNETS = [IPv4Network(f"10.{second}.0.0/16") for second in range(200, 232)]
"""Tried in this order for a cluster that names no subnet."""

MAX_NODES = 200
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")


def tag_of(state: Path) -> str:
    """Short and stable for a state folder; part of the name of everything that belongs to it."""
    return f"{PREFIX}-{hashlib.sha256(str(state).encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Node:
    """One machine of the cluster: a network and a mount namespace with a kubelet in them."""

    name: str
    number: int
    subnet: IPv4Network
    tag: str

    @property
    def address(self) -> IPv4Address:
        """Its own address."""
        return machine_subnet(self.subnet)[10 + self.number]

    @property
    def pod_subnet(self) -> IPv4Network:
        """The addresses of its pods."""
        return _slice(self.subnet, self.number)

    @property
    def port(self) -> str:
        """The switch's end of this node's cable, an interface in the control plane's namespace."""
        return f"port{self.number}"

    @property
    def cgroup(self) -> str:
        """The control group with its programs and its pods."""
        return f"{self.tag}/{self.name}"


def machine_subnet(subnet: IPv4Network) -> IPv4Network:
    """The last /24: the control plane, the nodes and this machine, all on one switch."""
    return _slice(subnet, 255)


def _slice(subnet: IPv4Network, number: int) -> IPv4Network:
    """One /24 of a /16."""
    return IPv4Network((int(subnet.network_address) + (number << 8), 24))


@dataclass(frozen=True)
class Cluster:
    """One cluster, as recorded in its state folder."""

    name: str
    tag: str
    subnet: IPv4Network
    node_names: tuple[str, ...]
    gpus: Mapping[str, Gpus] = field(default_factory=dict)
    has_egress: bool = False
    """Pods reach what this machine reaches."""
    has_audit_log: bool = False
    has_gang_scheduling: bool = False
    """The scheduler's own gangs, alpha: PodGroups."""
    extras: tuple[str, ...] = ()
    """What runs in it beside the usual: names of extra pieces."""

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in order."""
        return [Node(name, number, self.subnet, self.tag) for number, name in enumerate(self.node_names, 1)]

    def node(self, name: str) -> Node:
        """The node of that name, or an error that names all."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(
            f"there is no node {name!r}; the nodes are {', '.join(self.node_names)}", exit_code=2
        )

    @property
    def control_address(self) -> IPv4Address:
        """Where the control plane listens."""
        return machine_subnet(self.subnet)[1]

    @property
    def host_address(self) -> IPv4Address:
        """This machine, as the cluster sees it."""
        return machine_subnet(self.subnet)[254]

    @property
    def machine_prefix(self) -> int:
        """Prefix length of the switch's network."""
        return machine_subnet(self.subnet).prefixlen

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://{self.control_address}:{API_PORT}"

    @property
    def host_link(self) -> str:
        """The interface on this machine; the tag fits into the 15 characters that Linux allows."""
        return self.tag

    @property
    def control_cgroup(self) -> str:
        """The control group of the control plane."""
        return f"{self.tag}/control"

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "name": self.name,
            "tag": self.tag,
            "subnet": str(self.subnet),
            "nodes": list(self.node_names),
            "gpus": {name: asdict(gpus) for name, gpus in self.gpus.items()},
            "egress": self.has_egress,
            "auditLog": self.has_audit_log,
            "gangScheduling": self.has_gang_scheduling,
            "extras": list(self.extras),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Cluster":
        """From the record."""
        return cls(
            name=data["name"],
            tag=data["tag"],
            subnet=IPv4Network(data["subnet"]),
            node_names=tuple(data["nodes"]),
            gpus={name: Gpus(**gpus) for name, gpus in data["gpus"].items()},
            has_egress=data["egress"],
            has_audit_log=data["auditLog"],
            # A cluster that an earlier version recorded has neither.
            has_gang_scheduling=data.get("gangScheduling", False),
            extras=tuple(data.get("extras", ())),
        )


def node_names(count: int) -> tuple[str, ...]:
    """Names of that many nodes."""
    if not 1 <= count <= MAX_NODES:
        raise ClusterError(f"--nodes: from 1 to {MAX_NODES}, got {count}", exit_code=2)
    return tuple(f"node-{number}" for number in range(1, count + 1))


def check_name(name: str) -> str:
    """The name, if it is one."""
    if not _NODE_NAME.fullmatch(name):
        raise ClusterError(
            f"--name: lower-case letters, digits and dashes, at most 42, got {name!r}", exit_code=2
        )
    return name


def parse_subnet(text: str) -> IPv4Network:
    """The network that --subnet names, or an error that says what is wrong with it."""
    try:
        subnet = IPv4Network(text)
    except ValueError as problem:
        raise ClusterError(f"--subnet: {problem}; give a /16 such as {SUBNETS[0]}", exit_code=2) from problem
    if subnet.prefixlen != 16:
        raise ClusterError(f"--subnet: must be a /16 (one /24 per node), got {subnet}", exit_code=2)
    if subnet.overlaps(SERVICE_SUBNET):
        raise ClusterError(f"--subnet: {subnet} overlaps the service addresses {SERVICE_SUBNET}", exit_code=2)
    return subnet


def free_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first candidate that meets no route of this machine."""
    used = list(taken)
    for candidate in SUBNETS:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise ClusterError(
        f"all of {SUBNETS[0]} to {SUBNETS[-1]} are routed on this machine; choose one with --subnet"
    )
