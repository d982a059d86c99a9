"""Objects made from a job: a file a kind, a function an object. Pure: the same job gives the same bytes."""

from phitune_operator.kinds import Object
from phitune_operator.render.config_map import config_map
from phitune_operator.render.gang import with_needs
from phitune_operator.render.network_policy import network_policies
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.subject import Subject
from phitune_operator.render.volume import claim


def render_job(subject: Subject) -> list[Object]:
    """Return everything that the operator makes for a job that runs without a fault, in that order."""
    volume = claim(subject)
    rest = [
        *network_policies(subject),
        config_map(subject),
        prepare_job(subject),
        *with_needs(subject, attempt=1),
    ]
    return rest if volume is None else [volume, *rest]
