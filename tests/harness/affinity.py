"""Affinity with every field that there is, for pods of jobs."""

from __future__ import annotations

from typing import Any

from harness.cluster import Object

WHEN = "DuringSchedulingIgnoredDuringExecution"
REQUIRED, PREFERRED = f"required{WHEN}", f"preferred{WHEN}"
SELECTOR: Object = {
    "matchLabels": {"app": "cache"},
    "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["test", ""]}],
}
TERM: Object = {
    "matchExpressions": [
        {"key": "rack", "operator": "In", "values": ["a", "b"]},
        {"key": "cores", "operator": "Gt", "values": ["16"]},
        {"key": "spot", "operator": "DoesNotExist"},
    ],
    "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-7"]}],
}
BESIDE: Object = {
    "topologyKey": "topology.kubernetes.io/zone",
    "labelSelector": SELECTOR,
    "namespaces": ["caches"],
    "namespaceSelector": SELECTOR,
}
_PODS: Object = {REQUIRED: [BESIDE], PREFERRED: [{"weight": 7, "podAffinityTerm": BESIDE}]}
WISHES: Object = {
    "nodeAffinity": {
        REQUIRED: {"nodeSelectorTerms": [TERM]},
        PREFERRED: [{"weight": 100, "preference": TERM}],
    },
    "podAffinity": _PODS,
    "podAntiAffinity": _PODS,
}
"""Every field; the first entry of each list has all of its own."""
EMPTY: Object = {
    "nodeAffinity": {
        REQUIRED: {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "rack", "operator": "Exists", "values": []}], "matchFields": []}
            ]
        }
    },
    "podAffinity": {REQUIRED: [{"topologyKey": "rack", "labelSelector": {"matchExpressions": []}}]},
}
"""Lists with nothing in them, as templates write them: they say nothing."""


def at(document: Any, path: str) -> list[Any]:
    """The values of a field, such as a.b[*].c, in all entries of the lists on the way to it."""
    found = [document]
    for part in path.split("."):
        name = part.removesuffix("[*]")
        found = [one[name] for one in found if name in one]
        if part.endswith("[*]"):
            found = [entry for entries in found for entry in entries]
    return found
