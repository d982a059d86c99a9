"""The Job that puts model and data on the volume before the first gang, on the kind of node that it gets."""

from phitune_operator import names
from phitune_operator.kinds import JOB, Object
from phitune_operator.render.pod import container, pod_template
from phitune_operator.render.subject import Subject
from phitune_trainer import exit_codes

RETRIES = 3
"""Of the pod, after faults; the Job controller waits longer each time."""


def prepare_job(subject: Subject) -> Object:
    """Return the Job. A user error ends it at once, a disruption does not count as a try."""
    worker = container(
        subject,
        names.PREPARE_CONTAINER,
        "phitune_trainer.prepare",
        env=[],
        resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    )
    labels = subject.labels(role=names.ROLE_PREPARE)
    template = pod_template(subject, worker, labels=labels, affinity={})
    template["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": subject.metadata(names.prepare_job(subject.name), role=names.ROLE_PREPARE),
        "spec": {
            "backoffLimit": RETRIES,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.PREPARE_CONTAINER,
                            "operator": "In",
                            "values": [exit_codes.USER_ERROR],
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": template,
        },
    }
