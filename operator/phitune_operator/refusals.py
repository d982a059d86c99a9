"""Writes that are not admitted, by the API server or later by a controller, in our words."""

from dataclasses import dataclass
from typing import Final

from phitune_operator.reports import clean


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A write that will not succeed before somebody changes something."""

    reason: str
    """A reason of the condition Accepted."""
    message: str
    """A sentence for the user, with the remedy."""


NAME_COLLISION = "NameCollision"
QUOTA_EXCEEDED = "QuotaExceeded"
PODS_REFUSED = "PodsRefused"
OBJECT_REFUSED = "ObjectRefused"
TRAINING_OPERATOR_MISSING = "TrainingOperatorMissing"
REASONS = frozenset({NAME_COLLISION, QUOTA_EXCEEDED, PODS_REFUSED, OBJECT_REFUSED, TRAINING_OPERATOR_MISSING})

_QUOTA: Final = {
    "exceeded quota": "free some of it, or raise the namespace's ResourceQuota; it is tried again",
    "failed quota": (
        "the quota counts what these pods do not set: a LimitRange of the namespace can set a default for "
        "it, or the quota leave it out; it is tried again"
    ),
    "status unknown for quota": "the quota is new, and not counted yet; it is tried again",
}
"""What the API server's admission says of a ResourceQuota, and our advice."""


def refusal_of(message: str) -> Refusal:
    """Say why an object, or a pod of it, was not admitted; `message` is the API server's."""
    told = clean(message)
    for words, advice in _QUOTA.items():
        if words in message:
            return Refusal(reason=QUOTA_EXCEEDED, message=f"{told}; {advice}")
    if "pods" in message and "is forbidden" in message:
        advice = "let the namespace's Pod Security level or policies admit them; it is tried again"
        return Refusal(reason=PODS_REFUSED, message=f"the pods are not admitted: {told}; {advice}")
    return Refusal(reason=OBJECT_REFUSED, message=told)
