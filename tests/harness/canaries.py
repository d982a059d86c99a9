"""Secrets that exist to be searched for: whoever finds one has found a leak."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def told(words: Iterable[str], said: str) -> list[str]:
    """Those of the words that are said."""
    return [word for word in words if word in said]


def written(words: Iterable[str], folder: Path) -> list[str]:
    """Files under a folder that hold one of the words, in name or content; there must be files."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files, f"nothing under {folder} to search"
    contents = ((path, str(path).encode() + path.read_bytes()) for path in files)
    return [f"{word} in {path}" for path, content in contents for word in words if word.encode() in content]
