"""A gang of which only some pods have a node holds what others could use, and trains nothing.

It is taken back after a while, so that two gangs which each need the whole cluster do not wait for each other
for ever. A gang without any node holds nothing, and stays; but one that waits for a pool to grow is taken
back too, when the pool has had its time. The operator measures this by its own clock, since those of others
may be wrong.
"""

import hashlib
from collections.abc import Sequence
from datetime import timedelta

from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.status import duration_text

HALF_PLACED = "HalfPlaced"
NO_NEW_NODES = "NoNewNodes"
TAKEN_BACK = frozenset({HALF_PLACED, NO_NEW_NODES})
"""Reasons of the ends of gangs that did not get all their nodes."""
FOR_THE_OTHERS = "pod group is unschedulable"
"""So begins the scheduler's word on a pod that would have a node if the others of its PodGroup had one."""


def waits_for_nodes(pods: Sequence[PodView], *, num_pods: int, refused: str, pool: str) -> bool:
    """Whether the gang, none of whose pods has ended or is about to, waits in a way that has to end.

    `refused`: why pods that are missing are not made, or empty. `pool`: name of the pool that is to grow for
    it, or empty.
    """
    if any(pod.has_ended or pod.is_terminating for pod in pods):
        return False
    is_waiting = any(pod.unschedulable_since is not None for pod in pods)
    is_short = len(pods) < num_pods and bool(refused)
    holds_some = any(pod.scheduled_at is not None for pod in pods)
    return (holds_some or bool(pool)) and (is_waiting or is_short)


def without_node(pods: Sequence[PodView]) -> PodView | None:
    """The pod that no node takes, of several the one that tells why; None if there is none."""
    waiting = [pod for pod in pods if pod.unschedulable]
    return min(waiting, key=lambda pod: pod.unschedulable.startswith(FOR_THE_OTHERS), default=None)


def how_it_waited(
    pods: Sequence[PodView],
    *,
    num_pods: int,
    refused: str,
    pool: str,
    waited: timedelta | None,
    limit: timedelta,
) -> End | None:
    """Judge a gang that has waited so long for nodes; None if it does not wait, or may go on waiting."""
    if waited is None or waited < limit:
        return None
    placed = sum(pod.scheduled_at is not None for pod in pods)
    pod = without_node(pods)
    why = pod.unschedulable if pod is not None else refused
    if placed:
        message = (
            f"only {placed} of {num_pods} pods found a node within {duration_text(limit)}, and kept it from "
            f"others; {why}"
        )
        return End(verdict=Verdict.DISRUPTED, reason=HALF_PLACED, message=message, pod=pod)
    message = f"pool {pool} had no node for any of {num_pods} pods within {duration_text(limit)}; {why}"
    return End(verdict=Verdict.DISRUPTED, reason=NO_NEW_NODES, message=message, pod=pod)


def apart(pause: timedelta, *, uid: str, attempt: int) -> timedelta:
    """The pause, between half and one and a half times as long: another one for every job and attempt.

    Or two gangs would come back at the same moment each time.
    """
    share = int.from_bytes(hashlib.sha256(f"{uid}/{attempt}".encode()).digest()[:4]) / 2**32
    return pause * (0.5 + share)
