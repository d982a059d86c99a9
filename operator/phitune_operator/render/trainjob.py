"""The gang of one attempt as a TrainJob, and the TrainingRuntime that says what the TrainJob is to run.

Each attempt has a runtime of its own, whose template is the JobSet that we would make ourselves: of the same
name, with the same pods. So nothing of a job depends on runtimes that others may change, and the TrainJob
overrides nothing, which leaves that to Kueue.
"""

from phitune_operator import names
from phitune_operator.kinds import TRAINING_RUNTIME, TRAINJOB, Object
from phitune_operator.render.gang_pods import gang_labels, gang_metadata, suspended
from phitune_operator.render.jobset import jobset_spec
from phitune_operator.render.subject import Subject


def trainjob(subject: Subject, attempt: int) -> Object:
    """Return the TrainJob of this attempt, counted from 1; it is refused where its runtime is not there."""
    return {
        "apiVersion": TRAINJOB.api_version,
        "kind": TRAINJOB.kind,
        "metadata": gang_metadata(subject, attempt),
        "spec": {
            **suspended(subject),
            "runtimeRef": {
                "apiGroup": TRAINING_RUNTIME.group,
                "kind": TRAINING_RUNTIME.kind,
                "name": names.gang(subject.name, attempt),
            },
        },
    }


def training_runtime(subject: Subject, attempt: int) -> Object:
    """Return the TrainingRuntime of this attempt's TrainJob."""
    labels = gang_labels(subject, attempt)
    return {
        "apiVersion": TRAINING_RUNTIME.api_version,
        "kind": TRAINING_RUNTIME.kind,
        "metadata": subject.metadata(
            names.gang(subject.name, attempt), role=names.ROLE_TRAINER, attempt=str(attempt)
        ),
        "spec": {"template": {"metadata": {"labels": labels}, "spec": jobset_spec(subject, attempt)}},
    }
