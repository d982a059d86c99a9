"""What NetworkPolicies let through, by the rules of their API: a peer, a direction, a port."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.cluster import Object

NAMESPACE_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside of the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.244.0.9"


def lets_through(
    policies: Iterable[Object], source: Peer, target: Peer, port: int, kind: str = "TCP"
) -> bool:
    """Whether both ends agree: each is free unless a policy selects it, and then needs a rule."""
    known = list(policies)
    return _side(known, "Egress", "to", source, target, port, kind) and _side(
        known, "Ingress", "from", target, source, port, kind
    )


def _side(
    policies: list[Object], direction: str, ends: str, own: Peer, other: Peer, port: int, kind: str
) -> bool:
    mine = [
        policy for policy in policies if _selects(policy, own) and direction in policy["spec"]["policyTypes"]
    ]
    rules = [(policy, rule) for policy in mine for rule in policy["spec"].get(direction.lower(), [])]
    return not mine or any(
        _is_port(rule.get("ports"), port, kind) and _is_peer(policy, rule.get(ends), other)
        for policy, rule in rules
    )


def _selects(policy: Object, peer: Peer) -> bool:
    is_there = policy["metadata"]["namespace"] == peer.namespace
    return is_there and _matches(policy["spec"]["podSelector"], peer.labels)


def _is_port(ports: list[Object] | None, port: int, kind: str) -> bool:
    return ports is None or any(one["port"] == port and one["protocol"] == kind for one in ports)


def _is_peer(policy: Object, peers: list[Object] | None, other: Peer) -> bool:
    return peers is None or any(_is_one(policy, one, other) for one in peers)


def _is_one(policy: Object, one: Object, other: Peer) -> bool:
    if "ipBlock" in one:
        # Of pods the API leaves it to the network plugin whether an address block holds them.
        return not other.namespace and _holds(one["ipBlock"], other.address)
    if not other.namespace:
        return False
    if "namespaceSelector" in one:
        is_there = _matches(one["namespaceSelector"], {NAMESPACE_NAME: other.namespace})
    else:
        is_there = other.namespace == policy["metadata"]["namespace"]
    return is_there and _matches(one.get("podSelector", {}), other.labels)


def _holds(block: Object, address: str) -> bool:
    there = ipaddress.ip_address(address)
    return there in ipaddress.ip_network(block["cidr"]) and not any(
        there in ipaddress.ip_network(hole) for hole in block.get("except", [])
    )


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "expressions are not understood here"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
