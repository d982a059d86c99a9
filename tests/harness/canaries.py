"""Secrets that exist to be searched for: whoever finds one has found a leak."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_CHUNK = 2**20


def canary(what: str) -> str:
    """A secret that is nowhere but where it was put."""
    return f"canary-{what}-{secrets.token_hex(8)}"


def told(words: Iterable[str], said: str) -> list[str]:
    """Those of the words that are said."""
    return [word for word in words if word in said]


def streamed(words: Iterable[str], stream: BinaryIO) -> set[str]:
    """Those of the words that are in a stream of bytes, however long."""
    encoded = {word: word.encode() for word in words}
    overlap = max(map(len, encoded.values())) - 1
    found, window = set[str](), b""
    while chunk := stream.read(_CHUNK):
        window = window[-overlap:] + chunk
        found |= {word for word, sought in encoded.items() if sought in window}
    return found


def written(words: Iterable[str], folder: Path) -> list[str]:
    """Files under a folder that hold one of the words, in name or content; there must be files."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files, f"nothing under {folder} to search"
    contents = ((path, str(path).encode() + path.read_bytes()) for path in files)
    return [f"{word} in {path}" for path, content in contents for word in words if word.encode() in content]
