"""The gang of one attempt as a JobSet: one indexed Job, whose index is the node rank.

A pod that fails fails its index alone, and the Job when all others have ended: so no pod restarts by itself,
and none is taken away before its last words are read. The variables are those that a PyTorchJob sets.
"""

from phitune_operator import names
from phitune_operator.kinds import JOBSET, Object
from phitune_operator.render.gang_pods import gang_labels, gang_metadata, gang_pods, suspended
from phitune_operator.render.subject import Subject


def jobset(subject: Subject, attempt: int) -> Object:
    """Return the JobSet of this attempt, counted from 1."""
    return {
        "apiVersion": JOBSET.api_version,
        "kind": JOBSET.kind,
        "metadata": gang_metadata(subject, attempt),
        "spec": {**suspended(subject), **jobset_spec(subject, attempt)},
    }


def jobset_spec(subject: Subject, attempt: int) -> Object:
    """Return what a JobSet of this attempt is to run, whoever makes it."""
    labels = gang_labels(subject, attempt)
    template = gang_pods(
        subject, attempt, labels=labels, env=_rendezvous(subject, attempt), serves_progress=True
    )
    template["spec"]["restartPolicy"] = "Never"
    job = {
        "metadata": {"labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": subject.num_nodes,
            "parallelism": subject.num_nodes,
            "backoffLimitPerIndex": 0,
            "podReplacementPolicy": "Failed",
            "template": template,
        },
    }
    return {
        # Ranks look for each other before they are ready.
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "replicatedJobs": [{"name": names.JOBSET_NODES, "replicas": 1, "template": job}],
    }


def _rendezvous(subject: Subject, attempt: int) -> list[Object]:
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{names.LABEL_INDEX}']"}}
    return [
        {"name": "PET_NNODES", "value": str(subject.num_nodes)},
        {"name": "PET_NODE_RANK", "valueFrom": index},
        {"name": "PET_NPROC_PER_NODE", "value": str(subject.processes_per_node)},
        {"name": "PET_MASTER_ADDR", "value": names.jobset_master_address(subject.name, attempt)},
        {"name": "PET_MASTER_PORT", "value": str(names.MASTER_PORT)},
    ]
