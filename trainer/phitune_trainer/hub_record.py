"""The record in a folder of what was fetched into it from the hub: reading it needs no network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORD: Final = ".hub-"
"""Beginning of the names of records."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was fetched into a folder from one repository."""

    revision: str
    commit: str
    fetched_at: str
    patterns: tuple[str, ...]
    files: dict[str, int]
    """Bytes of each."""

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """The record, or None if there is none that can be understood."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**found, "patterns": tuple(found["patterns"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def covers(self, patterns: Sequence[str], folder: Path) -> bool:
        """Whether all files of these patterns were fetched and are there."""
        return set(patterns) <= set(self.patterns) and all(self.has(name, folder) for name in self.files)

    def has(self, name: str, folder: Path) -> bool:
        """Whether this file was fetched and is there."""
        path = folder / name
        return name in self.files and path.is_file() and path.stat().st_size == self.files[name]


def fetched_commit(folder: Path, name: str) -> str | None:
    """The commit of model `name` that lies in a folder; None where it was not fetched from there."""
    record = Record.read(folder / record_name("model", name))
    return None if record is None else record.commit


def record_name(kind: str, name: str) -> str:
    """The record's file for a repository, of kind "model" or "dataset"."""
    return f"{RECORD}{file_name(kind, name)}.json"


def file_name(kind: str, name: str) -> str:
    """What stands for a repository in names of files, whose own name has a slash."""
    return f"{kind}-{name.replace('/', '--')}"
