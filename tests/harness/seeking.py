"""Jobs that seek a place, and what comes of it: refused, waiting for room, or a gang that is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.operator_view import PREPARED, condition
from phitune_operator.cluster_settings import Pool
from phitune_operator.decide import subject_of
from phitune_operator.observed import Observed, Plan

GIB = 2**30
POOL = Pool(
    name="a100",
    product="A100-80GB",
    gpus_per_node=8,
    cpu="96",
    memory="1100Gi",
    max_nodes=4,
    labels={"cloud.google.com/gke-nodepool": "a100"},
)


def with_pool(seen: Observed, **change: Any) -> Observed:
    pool = POOL.model_copy(update=change)
    return replace(seen, settings=replace(seen.settings, pools=(pool,)))


def refusal(todo: Plan, reason: str) -> str:
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", reason), accepted
    assert todo.actions == ()
    return str(accepted["message"])


def prepared(seen: Observed, **more: Any) -> Observed:
    """The same job, decided, with model and data on the volume and no gang yet."""
    status = {
        **PREPARED,
        "attempt": 0,
        "placement": more.pop("placement", None) or subject_of(seen)[1],
    }
    return replace(seen, raw={**seen.raw, "status": status}, **more)


def gangs_made(todo: Plan) -> int:
    return sum(getattr(action, "body", {}).get("kind") == "PyTorchJob" for action in todo.actions)


def interrupted(status: dict[str, Any]) -> dict[str, Any]:
    """Of a job whose first gang has lost a node."""
    restarting = {
        "type": "Restarting",
        "status": "True",
        "reason": "NodeLost",
        "lastTransitionTime": "2026-01-01T11:00:00Z",
    }
    return {"attempt": 1, "conditions": [*status["conditions"], restarting]}
