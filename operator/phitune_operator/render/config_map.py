"""The ConfigMap that carries the trainer's config into every pod of every attempt."""

from phitune_operator import names
from phitune_operator.kinds import CONFIG_MAP, Object
from phitune_operator.render.subject import Subject


def config_map(subject: Subject) -> Object:
    """Return the ConfigMap. It is immutable: what the first attempt ran, a restart runs, too."""
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": subject.metadata(names.config_map(subject.name)),
        "immutable": True,
        "data": {names.CONFIG_KEY: subject.train.to_yaml()},
    }
