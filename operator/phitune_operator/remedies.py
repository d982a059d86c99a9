"""What would help after each kind of bad end: one sentence a reason, said in `status.failure.remedy`."""

from typing import Final

_NOTHING: Final = "nothing to do: the gang goes on from its last checkpoint, and this is not counted"
_LOGS: Final = "the ranks' logs on the volume, in the run's incarnations/NUMBER/logs"
_CORRECTED: Final = "then delete the job and apply it again; its volume stays"

REMEDIES: Final = {
    # The user's to mend: not tried again.
    "UserError": f"do what the message says, {_CORRECTED}",
    "PrepareFailed": (
        "read lastLines: it was tried several times; where the network or the hub failed, wait until it is "
        f"back, {_CORRECTED}"
    ),
    # Faults: tried again, and counted.
    "VolumeFull": (
        "enlarge the claim if its storage class allows that, or free room on it: the next start goes on from "
        "the last checkpoint; in a new job, a lower spec.checkpoint.keep needs less"
    ),
    "VolumeReadOnly": (
        "make the volume writable again, most often on its server: the next start goes on from the last "
        "checkpoint"
    ),
    "OutOfGpuMemory": (
        "the next start takes fewer samples a pass, or recomputes activations, by itself; where it cannot, "
        "use GPUs with more memory, spec.training.gradientCheckpointing: always, a smaller maxLength or "
        "numCrops, or method lora or qlora, in a new job"
    ),
    "OutOfMemory": (
        "raise spec.resources.memory, which may be changed at any time and counts from the next attempt on"
    ),
    "StartFailed": (
        "see whether spec.image is a trainer image, and made for the nodes' architecture; it may be changed, "
        "which counts from the next attempt on"
    ),
    "CollectiveTimeout": (
        f"the message names the rank that the others waited for in vain: look at {_LOGS} for what it did, "
        "and at the network between the nodes (NCCL_DEBUG=INFO in spec.env counts from the next attempt on)"
    ),
    "RankLost": (
        "the message names the rank that is gone: look at its node, and at the network between the nodes "
        "(NCCL_DEBUG=INFO in spec.env counts from the next attempt on)"
    ),
    "VolumeStalled": "see whether the volume's server answers, and has room for the load",
    "Diverged": (
        "in a new job, lower spec.training.learningRate, or use precision bf16 where it is fp16; look at the "
        "samples of the step that the message names"
    ),
    "Superseded": "see who else trains this run: two starts of one run folder were alive at once",
    "Fault": f"read lastLines, and {_LOGS}",
    "Stalled": (
        f"look at {_LOGS} for the one that hangs; raise spec.runPolicy.stallTimeout if a step takes so long"
    ),
    "LeftUnasked": "find out what sends SIGTERM inside the pods; nothing that the cluster did explains it",
    # The cluster's doing: tried again, not counted.
    "NodeLost": _NOTHING,
    "Preempted": f"{_NOTHING}; a higher spec.resources.priorityClassName keeps the place",
    "Evicted": f"{_NOTHING}; if its node runs short of something, the message says of what",
    "PodDeleted": _NOTHING,
    "GangDeleted": f"{_NOTHING}; to stop a job, set spec.runPolicy.suspend: true",
    "Interrupted": _NOTHING,
    "NeverRan": (
        "nothing to do if it was once; else the message says why the node refused the pod, or which init "
        "container waits for what"
    ),
    "HalfPlaced": "free or add nodes, or ask for fewer; it is tried again by itself",
    "NoNewNodes": (
        "see why the pool of nodes does not grow (its limit, the cloud's quota); it is tried again by itself"
    ),
    "SpecChanged": "nothing to do: the pods had not begun, and follow the changed spec",
    "ImageNotPulled": (
        "correct spec.image, or name a secret for its registry in spec.imagePullSecrets; both may be "
        "changed, and it is tried again by itself. An init container's image is the training-operator's to "
        "choose (--pytorch-init-container-image)"
    ),
}
