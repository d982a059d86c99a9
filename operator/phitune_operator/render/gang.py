"""The gang of an attempt, of the kind that was decided for the job."""

from phitune_operator.kinds import JOBSET, POD_GROUP, PYTORCHJOB, TRAINING_RUNTIME, TRAINJOB, Kind, Object
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pod_group import pod_group
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.subject import Subject
from phitune_operator.render.trainjob import training_runtime, trainjob

RENDERERS = {PYTORCHJOB.kind: pytorchjob, JOBSET.kind: jobset, TRAINJOB.kind: trainjob}
RENDERERS_OF_NEEDS = {POD_GROUP: pod_group, TRAINING_RUNTIME: training_runtime}


def gang(subject: Subject, attempt: int) -> Object:
    """Return the gang of this attempt, counted from 1."""
    return RENDERERS[subject.backend](subject, attempt)


def needs_of(subject: Subject) -> list[Kind]:
    """Return the kinds of what the gangs of a job need; each is there once for an attempt."""
    needed = {POD_GROUP: subject.has_pod_group, TRAINING_RUNTIME: subject.backend == TRAINJOB.kind}
    return [kind for kind, is_needed in needed.items() if is_needed]


def need(kind: Kind, subject: Subject, attempt: int) -> Object:
    """Return what the gang of this attempt needs of a kind."""
    return RENDERERS_OF_NEEDS[kind](subject, attempt)


def with_needs(subject: Subject, attempt: int) -> list[Object]:
    """Return the gang of this attempt, and before it what it needs, in the order in which they are made."""
    return [*(need(kind, subject, attempt) for kind in needs_of(subject)), gang(subject, attempt)]
