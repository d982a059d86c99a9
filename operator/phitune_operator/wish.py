"""What a job asks of the nodes that its gang runs on, and which nodes grant it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phitune_operator.api import Toleration
from phitune_operator.api_affinity import FieldRequirement, NodeAffinity, NodeRequirement, NodeSelectorTerm
from phitune_operator.nodes import Node


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a job asks of the nodes that its gang runs on."""

    num_nodes: int
    gpus_per_node: int
    products: Sequence[str] = ()
    """Those allowed, best first; empty: any whole GPU, the fastest first."""
    node_selector: Mapping[str, str] | None = None
    affinity: NodeAffinity | None = None
    tolerations: Sequence[Toleration] = ()
    """Taints that the pods put up with; a node with another one, or that is not ready, does not count."""

    @property
    def is_selective(self) -> bool:
        """Whether labels or names bound the choice."""
        return bool(self.node_selector) or self.affinity is not None

    def wants(self, labels: Mapping[str, str], *, name: str) -> bool:
        """Whether a node with these labels will do; the name of one that is yet to come is empty."""
        return (self.node_selector or {}).items() <= labels.items() and _is_wanted(
            labels, name, self.affinity
        )


def can_take(node: Node, wish: Wish, *, resource: str, selectors: Sequence[str]) -> bool:
    """Whether a node is one of those that were chosen, and open to the job's pods.

    `resource`: what pods ask for to get GPUs; of no account to those that ask for none.
    """
    return (
        (wish.gpus_per_node == 0 or (node.resource == resource and node.num_gpus >= wish.gpus_per_node))
        and matches(node.labels, selectors)
        and wish.wants(node.labels, name=node.name)
        and not node.obstacle(wish.tolerations)
    )


def matches(labels: Mapping[str, str], selectors: Sequence[str]) -> bool:
    """Whether a node with these labels matches one of a placement's selectors."""
    return not selectors or any(
        all(
            term[1:] not in labels if term.startswith("!") else labels.get(key) == value
            for term in selector.split(",")
            for key, _, value in [term.partition("=")]
        )
        for selector in selectors
    )


def _is_wanted(labels: Mapping[str, str], name: str, affinity: NodeAffinity | None) -> bool:
    """Whether a node meets what is required of it, as the scheduler will judge it."""
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or any(_is_met(labels, name, term) for term in required.node_selector_terms)


def _is_met(labels: Mapping[str, str], name: str, term: NodeSelectorTerm) -> bool:
    return all(_meets(labels, one) for one in term.match_expressions or []) and all(
        _is_called(name, one) for one in term.match_fields or []
    )


def _meets(labels: Mapping[str, str], one: NodeRequirement) -> bool:
    value, values = labels.get(one.key), one.values or []
    match one.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    if value is None or not value.isdecimal():
        return False
    return int(value) > int(values[0]) if one.operator == "Gt" else int(value) < int(values[0])


def _is_called(name: str, one: FieldRequirement) -> bool:
    return (name in one.values) == (one.operator == "In")
