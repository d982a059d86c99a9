"""In which zones all of a gang finds nodes. Pure.

A volume may be made where its first pod is, which is that of prepare, and be of use in that zone alone.
"""

from collections import Counter
from collections.abc import Iterable

from phitune_operator import names
from phitune_operator.kinds import Object
from phitune_operator.placement import Node


def zones_for(nodes: Iterable[Node], *, num_nodes: int, claim: Object | None) -> tuple[str, ...]:
    """Return the zones to which prepare keeps; empty where any will do, or the volume is there already.

    `nodes`: those that the gang can run on.
    """
    if claim is not None and (claim.get("status") or {}).get("phase") == "Bound":
        return ()
    counted = Counter(node.labels.get(names.LABEL_ZONE, "") for node in nodes)
    enough = [zone for zone, count in sorted(counted.items()) if zone and count >= num_nodes]
    return () if len(enough) == len(counted) else tuple(enough)
