"""The gang of an attempt, of the kind that was decided for the job."""

from phitune_operator.kinds import JOBSET, PYTORCHJOB, Object
from phitune_operator.render.jobset import jobset
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.subject import Subject

RENDERERS = {PYTORCHJOB.kind: pytorchjob, JOBSET.kind: jobset}


def gang(subject: Subject, attempt: int) -> Object:
    """Return the gang of this attempt, counted from 1."""
    return RENDERERS[subject.backend](subject, attempt)
