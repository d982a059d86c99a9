"""What comes of a FineTuneJob where all goes well: the real plan, pass after pass, until it rests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.cluster import Object
from harness.operator_view import H100, NOON, UID, condition
from phitune_operator import names
from phitune_operator.kinds import CLAIM, CONFIG_MAP, JOB, NETWORK_POLICY
from phitune_operator.observed import Create, NetworkAccess, Observed, Settings
from phitune_operator.plan import plan
from phitune_operator.validate import read_job

MOST_PASSES = 6
"""Claim, policies and config, and prepare; the gang; its look; the rest changes nothing."""
SETTINGS = Settings(trainer_image="trainer:1", network=NetworkAccess(operator_namespace="phitune-system"))
VOLUME: Object = {
    "metadata": {"name": "theirs"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound", "capacity": {"storage": "8Ti"}},
}
DONE: Object = {"conditions": [{"type": "Complete", "status": "True"}]}


@dataclass(frozen=True)
class Outcome:
    """Where a job came to rest."""

    objects: list[Object]
    """Everything that was made for it, in that order."""
    status: dict[str, Any]

    @property
    def has_started(self) -> bool:
        """Whether its gang was made."""
        return bool(self.status.get("attempt"))

    @property
    def refusal(self) -> str:
        """Why it is not accepted; empty if it is."""
        accepted = condition(self.status, names.CONDITION_ACCEPTED)
        return str(accepted["message"]) if accepted.get("status") == "False" else ""


def outcome(document: Object, namespace: str = "team") -> Outcome:
    """The outcome for a job that the schema accepts, on two nodes of eight H100 each.

    Raises AssertionError where the plan does not come to rest.
    """
    metadata = {**document["metadata"], "namespace": namespace, "uid": UID, "generation": 1}
    raw = {**document, "metadata": metadata}
    job = read_job({**document, "metadata": {"name": document["metadata"]["name"]}})
    claim = VOLUME if job.spec.storage.claim_name is not None else None
    seen = Observed(now=NOON, settings=SETTINGS, raw=raw, job=job, nodes=H100, claim=claim)
    made: list[Object] = []
    for _ in range(MOST_PASSES):
        todo = plan(seen)
        bodies = [action.body for action in todo.actions if isinstance(action, Create)]
        if not todo.actions and todo.status == seen.status:
            return Outcome(made, todo.status)
        made += bodies
        seen = replace(seen, raw={**raw, "status": todo.status})
        for body in bodies:
            seen = _with(seen, body)
    raise AssertionError(f"no rest after {MOST_PASSES} passes: {seen.status}")


def _with(seen: Observed, body: Object) -> Observed:
    match body["kind"]:
        case CLAIM.kind:
            return replace(seen, claim=body)
        case CONFIG_MAP.kind:
            return replace(seen, config_map=body)
        case JOB.kind:
            return replace(seen, prepare={**body, "status": DONE})
        case NETWORK_POLICY.kind:
            return seen
    gang = {**body, "metadata": {**body["metadata"], "uid": "gang"}}
    return replace(seen, gangs=(gang,))
