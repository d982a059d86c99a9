"""A gang of which only some pods have a node holds what others could use, and trains nothing.

It is taken back after a while, so that two gangs which each need the whole cluster do not wait for each other
for ever. A gang without any node holds nothing, and stays: that is how an autoscaler sees that it is wanted.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.status import duration_text

HALF_PLACED = "HalfPlaced"


def how_it_waits(
    pods: Sequence[PodView], *, num_pods: int, refused: str, now: datetime, grace: timedelta
) -> End | None:
    """Judge a gang none of whose pods has ended or is about to; None if all of them or none has a node.

    `refused`: why pods that are missing are not made, or empty. `grace`: how long some may hold nodes while
    others find none.
    """
    if any(pod.has_ended or pod.is_terminating for pod in pods):
        return None
    placed = [pod.scheduled_at for pod in pods if pod.scheduled_at is not None]
    waiting = [pod.unschedulable_since for pod in pods if pod.unschedulable_since is not None]
    is_short = len(pods) < num_pods and bool(refused)
    if not placed or not (waiting or is_short):
        return None
    since = max(min(placed), min(waiting, default=min(placed)))
    if now - since < grace:
        return None
    pod = next((pod for pod in pods if pod.unschedulable), None)
    why = pod.unschedulable if pod is not None else refused
    message = (
        f"only {len(placed)} of {num_pods} pods found a node within {duration_text(grace)}, and kept it from "
        f"others; {why}"
    )
    return End(verdict=Verdict.DISRUPTED, reason=HALF_PLACED, message=message, pod=pod)


def apart(pause: timedelta, *, uid: str, attempt: int) -> timedelta:
    """The pause, between half and one and a half times as long: another one for every job and attempt.

    Or two gangs would come back at the same moment each time.
    """
    share = int.from_bytes(hashlib.sha256(f"{uid}/{attempt}".encode()).digest()[:4]) / 2**32
    return pause * (0.5 + share)
