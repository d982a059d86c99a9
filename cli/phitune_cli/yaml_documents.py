"""Manifests from files or standard input, as kubectl finds them: several documents, YAML or JSON, lists."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.yaml_reader import YamlError, read_documents


class UnreadableError(Exception):
    """A file cannot be read, or is no YAML; the message begins with its name."""


@dataclass(frozen=True)
class Manifest:
    """One object of a file."""

    value: object
    where: str
    """File and line of its document, such as jobs.yaml:12."""

    @property
    def kind(self) -> str:
        """Its kind, as written; empty if it has none."""
        return self._text("kind")

    @property
    def api_version(self) -> str:
        """Its apiVersion, as written; empty if it has none."""
        return self._text("apiVersion")

    @property
    def name(self) -> str:
        """Its name; empty if it has none."""
        metadata = self.value.get("metadata") if isinstance(self.value, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return name if isinstance(name, str) else ""

    def _text(self, key: str) -> str:
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return value if isinstance(value, str) else ""


def read_manifests(file: str) -> list[Manifest]:
    """Every object of a file, in order; `-`: standard input. UnreadableError names file, line and column."""
    shown = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UnreadableError(f"{shown}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{shown}: not UTF-8 text, at byte {error.start}") from error
    try:
        documents = read_documents(text)
    except YamlError as error:
        raise UnreadableError(f"{shown}: {error}") from error
    return [
        Manifest(value, f"{shown}:{document.line}")
        for document in documents
        for value in _items(document.value)
    ]


def _items(value: object) -> Iterator[object]:
    """The objects inside a List, or the object itself."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _items(item)
    else:
        yield value
