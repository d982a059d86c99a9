"""Where a job's pods may run: what the operator asks for and what the job adds, both of which must hold."""

from typing import Any

from phitune_operator.api_affinity import Affinity
from phitune_operator.kinds import Object

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def affinity(ours: Object, theirs: Affinity | None, *, is_gang: bool) -> Object:
    """Return a pod's affinity; empty if nobody asks for any.

    Of `theirs`, pods that are no gang follow the node affinity alone, for they have none beside them.
    """
    asked: dict[str, Any] = theirs.model_dump(by_alias=True, exclude_none=True) if theirs else {}
    if not is_gang:
        asked = {kind: wish for kind, wish in asked.items() if kind == "nodeAffinity"}
    both = {"nodeAffinity": _nodes(ours.get("nodeAffinity", {}), asked.get("nodeAffinity", {}))}
    for kind in ("podAffinity", "podAntiAffinity"):
        both[kind] = _pods(ours.get(kind, {}), asked.get(kind, {}))
    return {kind: wish for kind, wish in both.items() if wish}


def _nodes(ours: Object, theirs: Object) -> Object:
    """A node must match one of the terms, so what both ask for goes into each of them."""
    terms = [
        {
            **one,
            **other,
            "matchExpressions": [*one.get("matchExpressions", []), *other.get("matchExpressions", [])],
        }
        for one in ours.get(REQUIRED, {}).get("nodeSelectorTerms", [{}])
        for other in theirs.get(REQUIRED, {}).get("nodeSelectorTerms", [{}])
    ]
    required = {"nodeSelectorTerms": terms} if REQUIRED in ours or REQUIRED in theirs else None
    return _filled({REQUIRED: required, PREFERRED: theirs.get(PREFERRED)})


def _pods(ours: Object, theirs: Object) -> Object:
    return _filled({when: [*ours.get(when, []), *theirs.get(when, [])] for when in (REQUIRED, PREFERRED)})


def _filled(wishes: Object) -> Object:
    return {when: wish for when, wish in wishes.items() if wish}
