"""In which zones all of a gang finds nodes, and finds its volume. Pure.

A volume may be made where its first pod is, which is that of prepare, and be of use in that zone alone.
"""

from collections import Counter
from collections.abc import Sequence

from phitune_operator import names
from phitune_operator.kinds import Object
from phitune_operator.nodes import Node
from phitune_operator.policies.claim import SHARED_MODES


def zones_for(nodes: Sequence[Node], *, num_nodes: int, claim: Object | None) -> tuple[str, ...]:
    """Return the zones to which prepare keeps; empty where any will do, or the volume is there already.

    `nodes`: those that the gang can run on.
    """
    if _is_bound(claim):
        return ()
    counted = Counter(map(_zone, nodes))
    enough = [zone for zone, count in sorted(counted.items()) if zone and count >= num_nodes]
    return () if len(enough) == len(counted) else tuple(enough)


def near_volume(nodes: Sequence[Node], claim: Object | None) -> Sequence[Node]:
    """Leave out nodes in another zone than the one for whose node the volume was made; all, if none was.

    What many nodes can write to is a share on the network, and other zones reach it, too.
    """
    annotations = ((claim or {}).get("metadata") or {}).get("annotations") or {}
    made_for = annotations.get(names.ANNOTATION_SELECTED_NODE)
    zone = next((_zone(node) for node in nodes if node.name == made_for), "")
    is_share = not SHARED_MODES.isdisjoint(((claim or {}).get("spec") or {}).get("accessModes") or [])
    if not zone or is_share or not _is_bound(claim):
        return nodes
    return [node for node in nodes if _zone(node) in ("", zone)]


def _is_bound(claim: Object | None) -> bool:
    return ((claim or {}).get("status") or {}).get("phase") == "Bound"


def _zone(node: Node) -> str:
    return node.labels.get(names.LABEL_ZONE, "")
