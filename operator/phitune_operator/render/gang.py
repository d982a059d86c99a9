"""The gang of an attempt, of the kind that was decided for the job."""

from phitune_operator.kinds import JOBSET, PYTORCHJOB, TRAINJOB, Object
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pod_group import pod_group
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.subject import Subject
from phitune_operator.render.trainjob import training_runtime, trainjob

RENDERERS = {PYTORCHJOB.kind: pytorchjob, JOBSET.kind: jobset, TRAINJOB.kind: trainjob}
NEEDS = {TRAINJOB.kind: training_runtime}
"""What has to be there before a gang of the kind."""


def gang(subject: Subject, attempt: int) -> Object:
    """Return the gang of this attempt, counted from 1."""
    return RENDERERS[subject.backend](subject, attempt)


def with_needs(subject: Subject, attempt: int) -> list[Object]:
    """Return the gang of this attempt, and before it what it needs, in the order in which they are made."""
    needed = [pod_group(subject, attempt)] if subject.has_pod_group else []
    if render_need := NEEDS.get(subject.backend):
        needed.append(render_need(subject, attempt))
    return [*needed, gang(subject, attempt)]
