"""What kind of end a pod had that ended by itself, by whatever says it most surely.

Kubernetes's word comes first, then the trainer's own, and the last lines of the log only where neither tells:
a process that was killed cannot say why.
"""

import re
from typing import Final

from phitune_operator.pods import PodView

OUT_OF_MEMORY: Final = "OutOfMemory"
START_FAILED: Final = "StartFailed"
OUT_OF_GPU_MEMORY: Final = "OutOfGpuMemory"
VOLUME_FULL: Final = "VolumeFull"
VOLUME_READ_ONLY: Final = "VolumeReadOnly"
FAULT: Final = "Fault"
COLLECTIVE_TIMEOUT: Final = "CollectiveTimeout"
RANK_LOST: Final = "RankLost"
KINDS: Final = (
    OUT_OF_MEMORY,
    START_FAILED,
    OUT_OF_GPU_MEMORY,
    VOLUME_FULL,
    VOLUME_READ_ONLY,
    "VolumeStalled",
    "Diverged",
    "Superseded",
    FAULT,
    COLLECTIVE_TIMEOUT,
    RANK_LOST,
)
"""In the order in which they explain each other: a rank that lost another one never failed by itself."""

OF_VOLUME: Final = frozenset({VOLUME_FULL, VOLUME_READ_ONLY})
"""What the user mends on the volume, and not in the job: the same start may succeed then."""

_OF_KUBERNETES: Final = {
    "OOMKilled": OUT_OF_MEMORY,
    "StartError": START_FAILED,
    "ContainerCannotRun": START_FAILED,
}
_OF_LOG: Final = (
    (OUT_OF_GPU_MEMORY, re.compile(r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED")),
    (
        COLLECTIVE_TIMEOUT,
        re.compile(r"[Cc]ollective operation timeout|(NCCL|[Gg]loo).*([Tt]imed out|[Tt]imeout)"),
    ),
)


def kind_of_fault(pod: PodView) -> str:
    """Say what ended the pod, one of KINDS."""
    told = pod.report.reason if pod.report is not None else ""
    if pod.cause in _OF_KUBERNETES:
        return _OF_KUBERNETES[pod.cause]
    if told in KINDS and told != FAULT:
        return told
    lines = "\n".join(pod.last_lines)
    return next((kind for kind, pattern in _OF_LOG if pattern.search(lines)), FAULT)


def kind_of_user_error(pod: PodView) -> str:
    """Say what the user has to mend: what the trainer calls by a name of its own, or UserError."""
    told = pod.report.reason if pod.report is not None else ""
    return told if told in {OUT_OF_GPU_MEMORY, *OF_VOLUME} else "UserError"
