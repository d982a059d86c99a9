"""Whether a gang that seems to run has come to a standstill, by how long rank 0 has had nothing new to tell.

A rank that hangs stops all others in their next collective, rank 0 too. A gang that loads is not judged: a
slow volume gives no signs of life, and ranks that wait there for each other have a time limit of their own.
"""

from collections.abc import Sequence
from datetime import timedelta

from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import STALLED, End, Verdict
from phitune_operator.reports import ProgressReport
from phitune_operator.status import duration_text

LOADING = "loading"


def how_it_stalled(
    pods: Sequence[PodView], progress: ProgressReport | None, *, silence: timedelta | None, limit: timedelta
) -> End | None:
    """Judge a gang all of whose pods run, or have done their work; None if it was heard within the limit."""
    if silence is None or silence < limit or (progress is not None and progress.state == LOADING):
        return None
    if not all(pod.has_succeeded or (pod.is_ready and not pod.is_terminating) for pod in pods):
        return None
    message = (
        f"no sign of life for {duration_text(silence)} (stallTimeout is {duration_text(limit)}); rank 0 "
        + (
            f"was last seen {progress.state}, at step {progress.step} of {progress.total_steps}"
            if progress is not None
            else "takes connections, but does not answer"
        )
    )
    rank_zero = next((pod for pod in pods if pod.is_rank_zero), None)
    return End(verdict=Verdict.FAULT, reason=STALLED, message=message, pod=rank_zero)
