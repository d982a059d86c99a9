"""The PodGroup of one attempt: the cluster's scheduler finds nodes for all of its pods, or for none."""

from phitune_operator import names
from phitune_operator.kinds import POD_GROUP, Object
from phitune_operator.render.subject import Subject


def pod_group(subject: Subject, attempt: int) -> Object:
    """Return the PodGroup of this attempt, counted from 1."""
    return {
        "apiVersion": POD_GROUP.api_version,
        "kind": POD_GROUP.kind,
        "metadata": subject.metadata(
            names.gang(subject.name, attempt), role=names.ROLE_TRAINER, attempt=str(attempt)
        ),
        "spec": {"schedulingPolicy": {"gang": {"minCount": subject.num_nodes}}},
    }
