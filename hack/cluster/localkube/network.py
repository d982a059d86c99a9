"""The network: one switch, and plugged into it the control plane, every node and this machine.

    this machine --- host ---+
    control plane (bridge) --+-- port1 --- node-1, its pods behind it
                             +-- port2 --- node-2, its pods behind it

The switch is a bridge inside the control plane's network namespace. This machine's own network gets one
interface and routes over it, nothing else, so that all of it goes away with the namespaces. Namespaces are
mounted on files of the state folder: they are found, and unmounted, with whatever else is mounted there.
"""

import json
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from .mounts import is_mount
from .paths import Paths
from .plan import Cluster, Node
from .shell import in_network, run

BRIDGE = "nodes"


def routed_networks() -> list[IPv4Network]:
    """What this machine already knows a way to, without its default route."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    return [IPv4Network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]


def host_link_exists(tag: str) -> bool:
    """Whether a cluster's interface is on this machine."""
    return Path(f"/sys/class/net/{tag}").exists()


def ensure(cluster: Cluster, paths: Paths) -> list[str]:
    """Make the network as planned, and say what was missing. Routes and addresses are set again each time."""
    made: list[str] = []
    control = paths.control_network
    if _ensure_namespace(control):
        made.append("control plane's network")
    here = _ip(control)
    if BRIDGE not in _links(control):
        here("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    here("addr", "replace", f"{cluster.control_address}/{cluster.machine_prefix}", "dev", BRIDGE)
    here("link", "set", BRIDGE, "up")
    _set(control, "net/ipv4/ip_forward", "1")
    _ensure_host_link(cluster, paths)
    for node in cluster.nodes:
        if _ensure_node_link(cluster, node, paths):
            made.append(f"network of {node.name}")
        if is_cut(node, paths):
            heal(node, paths)
            made.append(f"cable of {node.name}")
    _ensure_routes(cluster, paths)
    return made


def _ensure_namespace(path: Path) -> bool:
    if is_mount(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    run(["unshare", f"--net={path}", "true"])
    _ip(path)("link", "set", "lo", "up")
    return True


def _ensure_host_link(cluster: Cluster, paths: Paths) -> None:
    machine = _ip(None)
    if not host_link_exists(cluster.host_link):
        peer = ["peer", "name", "host", "netns", str(paths.control_network)]
        machine("link", "add", cluster.host_link, "type", "veth", *peer)
    _ip(paths.control_network)("link", "set", "host", "master", BRIDGE, "up")
    machine("addr", "replace", f"{cluster.host_address}/{cluster.machine_prefix}", "dev", cluster.host_link)
    machine("link", "set", cluster.host_link, "up")


def _ensure_node_link(cluster: Cluster, node: Node, paths: Paths) -> bool:
    """The node's namespace, its eth0, and the other end of that cable in the switch."""
    control, inside = paths.control_network, paths.network(node.name)
    made = _ensure_namespace(inside)
    switch = _ip(control)
    if node.port not in _links(control):
        switch("link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", str(inside))
        switch("link", "set", node.port, "master", BRIDGE, "up")
    here = _ip(inside)
    here("addr", "replace", f"{node.address}/{cluster.machine_prefix}", "dev", "eth0")
    here("link", "set", "eth0", "up")
    _set(inside, "net/ipv4/ip_forward", "1")
    return made


def _ensure_routes(cluster: Cluster, paths: Paths) -> None:
    """Everyone knows the way to every node's pods. Pods keep their own address on the way."""
    way_out = str(cluster.host_address if cluster.has_egress else cluster.control_address)
    for machine in cluster.nodes:
        here = _ip(paths.network(machine.name))
        for node in cluster.nodes:
            if node != machine:
                here("route", "replace", str(node.pod_subnet), "via", str(node.address))
        here("route", "replace", "default", "via", way_out)
    control, host = _ip(paths.control_network), _ip(None)
    for node in cluster.nodes:
        control("route", "replace", str(node.pod_subnet), "via", str(node.address))
        host("route", "replace", str(node.pod_subnet), "via", str(node.address), "dev", cluster.host_link)
    if cluster.has_egress:
        control("route", "replace", "default", "via", way_out)
    else:
        # Told to all nodes at once; silence would cost them a time-out.
        control("route", "replace", "unreachable", "default")


def cut(node: Node, paths: Paths) -> None:
    """Pull the node's cable: packets vanish, nobody is told."""
    _ip(paths.control_network)("link", "set", node.port, "down")


def heal(node: Node, paths: Paths) -> None:
    """Put the cable back."""
    _ip(paths.control_network)("link", "set", node.port, "up")


def is_cut(node: Node, paths: Paths) -> bool:
    """Whether the cable is pulled, or there is none."""
    if not is_mount(paths.control_network):
        return True
    links = json.loads(_ip(paths.control_network)("-json", "link", "show"))
    return not any(link["ifname"] == node.port and "UP" in link["flags"] for link in links)


def remove_host_link(tag: str) -> bool:
    """Take this machine's interface away, and its routes with it; whether there was one."""
    if not host_link_exists(tag):
        return False
    _ip(None)("link", "delete", tag)
    return True


def _ip(namespace: Path | None) -> Callable[..., str]:
    """The program `ip`, in a namespace or, without one, on this machine."""

    def call(*words: str) -> str:
        return run(in_network(namespace, ["ip", *words]) if namespace else ["ip", *words])

    return call


def _links(namespace: Path) -> set[str]:
    return {link["ifname"] for link in json.loads(_ip(namespace)("-json", "link", "show"))}


def _set(namespace: Path, name: str, value: str) -> None:
    run(in_network(namespace, ["sh", "-c", f"echo {value} >/proc/sys/{name}"]))
