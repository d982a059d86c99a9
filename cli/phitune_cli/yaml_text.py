"""Values as YAML that kubectl reads as what they are, written for people."""

from collections.abc import Iterable
from typing import Any

import yaml

from phitune_trainer.yaml_reader import YamlError, read_document


def to_yaml(value: Any) -> str:
    """A value as one document, in ASCII: what a terminal would act upon is spelled out."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def to_documents(values: Iterable[Any]) -> str:
    """Each value as a document of its own."""
    return yaml.dump_all(values, Dumper=_Dumper, sort_keys=False, explicit_start=True)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are, so that the config inside a ConfigMap can be read."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if _reads_as_itself(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def _reads_as_itself(text: str) -> bool:
    """Whether it needs no quotes; 4e-5 does, which is a number to kubectl and none to PyYAML."""
    try:
        return read_document(text) == text
    except YamlError:
        return False
