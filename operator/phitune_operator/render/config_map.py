"""The ConfigMap that carries the trainer's config into every pod of every attempt, there and back."""

from collections import OrderedDict
from typing import Final

from phitune_operator import names
from phitune_operator.kinds import CONFIG_MAP, Object, name_of
from phitune_operator.render.subject import Subject
from phitune_trainer.config import TrainConfig, parse_config
from phitune_trainer.yaml_reader import read_document

NUM_CONFIGS: Final = 1_000
"""Configs that are remembered by their texts, which never change: reading one costs more than a look."""
_known: Final[OrderedDict[str, TrainConfig]] = OrderedDict()


def config_map(subject: Subject) -> Object:
    """Return the ConfigMap. It is immutable: what the first attempt ran, a restart runs, too."""
    text = subject.train.to_yaml()
    _remember(text, subject.train)
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": subject.metadata(names.config_map(subject.name)),
        "immutable": True,
        "data": {names.CONFIG_KEY: text},
    }


def config_in(found: Object) -> TrainConfig:
    """Return the config that a ConfigMap carries. Raises ConfigError, and YamlError where it is no YAML."""
    text = str((found.get("data") or {}).get(names.CONFIG_KEY, ""))
    known = _known.get(text)
    if known is None:
        known = parse_config(read_document(text), f"ConfigMap {name_of(found)}, {names.CONFIG_KEY}")
    _remember(text, known)
    return known


def _remember(text: str, config: TrainConfig) -> None:
    _known[text] = config
    _known.move_to_end(text)
    if len(_known) > NUM_CONFIGS:
        _known.popitem(last=False)
