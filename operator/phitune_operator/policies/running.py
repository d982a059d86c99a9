"""What may be called running: every pod runs, and rank 0 has told that the ranks step. No other word counts.

Where the operator cannot reach rank 0, pods that run are taken for running after a while, and it is said that
this is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from phitune_operator.names import PROGRESS_PORT
from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import sentence
from phitune_operator.policies.half_placed import without_node
from phitune_operator.policies.stall import LOADING
from phitune_operator.reports import ProgressReport

HEARD_WITHIN = timedelta(minutes=2)
"""How long rank 0 may take, from the start of the last pod, until it answers for the first time."""
TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a gang is that has not ended: whether it runs, with the condition's reason and message."""

    runs: bool
    reason: str
    message: str


def how_it_runs(
    pods: Sequence[PodView], progress: ProgressReport | None, *, has_told: bool, num_pods: int, now: datetime
) -> Standing:
    """Say how a gang does that has not ended.

    `has_told`: rank 0 has said that it trains, if only to an operator before this one.
    """
    failed = next((pod for pod in pods if pod.has_ended and not pod.has_succeeded), None)
    if failed is not None:
        message = f"{sentence(failed)}; the other pods may tell why"
        return Standing(runs=False, reason="Ending", message=message)
    ready = [pod for pod in pods if pod.is_ready or pod.has_succeeded]
    if len(ready) < num_pods:
        waiting = without_node(pods)
        message = f"{len(ready)} of {num_pods} pod(s) run" + (f"; {waiting.unschedulable}" if waiting else "")
        return Standing(runs=False, reason="Unschedulable" if waiting else "Starting", message=message)
    if progress is not None and progress.state == LOADING:
        message = f"all {num_pods} pod(s) run, and load model and data"
        return Standing(runs=False, reason="Loading", message=message)
    if progress is not None or has_told or any(pod.has_succeeded for pod in pods):
        return Standing(runs=True, reason=TRAINING, message=f"all {num_pods} pod(s) run")
    if any(pod.ready_since is not None and now - pod.ready_since < HEARD_WITHIN for pod in pods):
        message = f"all {num_pods} pod(s) run; rank 0 has not told yet how far it is"
        return Standing(runs=False, reason="Starting", message=message)
    message = (
        f"all {num_pods} pod(s) run; how far they are is not known, for rank 0 does not answer: let the "
        f"operator's namespace reach port {PROGRESS_PORT} of the pods"
    )
    return Standing(runs=True, reason="Unheard", message=message)
