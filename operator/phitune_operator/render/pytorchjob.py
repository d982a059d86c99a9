"""The gang of one attempt: a PyTorchJob of one master and N - 1 workers, alike but for the rank's label.

The restart of a gang is ours (a new attempt under a new name), so its pods never restart by themselves and
stay when they have ended: their last words and logs are read before the PyTorchJob is deleted.
"""

from phitune_operator import names
from phitune_operator.kinds import PYTORCHJOB, Object
from phitune_operator.render.gang_pods import gang_labels, gang_metadata, gang_pods, suspended
from phitune_operator.render.subject import Subject


def pytorchjob(subject: Subject, attempt: int) -> Object:
    """Return the PyTorchJob of this attempt, counted from 1."""
    replicas = {"Master": _replica(subject, attempt, count=1, is_master=True)}
    if subject.num_nodes > 1:
        replicas["Worker"] = _replica(subject, attempt, count=subject.num_nodes - 1, is_master=False)
    return {
        "apiVersion": PYTORCHJOB.api_version,
        "kind": PYTORCHJOB.kind,
        "metadata": gang_metadata(subject, attempt),
        "spec": {
            "nprocPerNode": str(subject.processes_per_node),
            "runPolicy": {"cleanPodPolicy": "None", **suspended(subject)},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _replica(subject: Subject, attempt: int, *, count: int, is_master: bool) -> Object:
    labels = gang_labels(subject, attempt)
    if is_master:
        labels[names.LABEL_RANK] = "0"
    template = gang_pods(subject, attempt, labels=labels, serves_progress=is_master)
    return {"replicas": count, "restartPolicy": "Never", "template": template}
