"""A gang that waits for an image which cannot be had keeps nodes from others, and trains nothing.

It is taken back after a while, and tried again: the registry may be back by then, or the spec corrected.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from phitune_operator.pods import PodView
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.status import duration_text

NO_IMAGE = "NoImage"
"""Reason of the condition Accepted, from the first try that failed on."""
IMAGE_NOT_PULLED = "ImageNotPulled"
GRACE = timedelta(minutes=10)
"""The kubelet tries again, too, at last each 5 minutes."""


def how_it_pulls(pods: Sequence[PodView], *, said_at: datetime | None, now: datetime) -> End | None:
    """Judge a gang with a pod whose image could not be pulled at the last try; None if it may wait longer.

    `said_at`: when the job was told of it; None if it was not.
    """
    pod = next((pod for pod in pods if pod.bad_image), None)
    if pod is None or said_at is None:
        return None
    since = max(said_at, pod.scheduled_at or said_at)
    if now - since < GRACE:
        return None
    whose = f" of the init container {pod.bad_image_of}" if pod.bad_image_of else ""
    message = f"image {pod.bad_image}{whose} could not be pulled within {duration_text(GRACE)}"
    return End(verdict=Verdict.DISRUPTED, reason=IMAGE_NOT_PULLED, message=message, pod=pod)
