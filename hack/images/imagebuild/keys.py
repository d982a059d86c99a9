"""Keys: short hashes of all that goes into a step, under which its result is kept. Writes no files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from imagebuild.process import BuildError

KEY_LENGTH = 12
NOT_SOURCE = {"__pycache__"}


def key(*parts: str | bytes) -> str:
    """A short hash of the parts in their order; it differs when a border between parts moves."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:KEY_LENGTH]


def files_key(root: Path, paths: Iterable[Path]) -> str:
    """A key of the names (within `root`) and contents of files and of all files below folders."""
    parts: list[str | bytes] = []
    for path in sorted({file for given in paths for file in _files(given)}):
        parts += [path.relative_to(root).as_posix(), path.read_bytes()]
    return key(*parts)


def copied_paths(dockerfile: str, root: Path, *, all_stages: bool = False) -> list[Path]:
    """What the last stage of a Dockerfile, or all of them, copy from the build context.

    Raises BuildError, with the line, for a source that does not exist.
    """
    text = dockerfile if all_stages else re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[-1]
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0] != "COPY" or any(word.startswith("--from") for word in words):
            continue
        sources = [word for word in words[1:-1] if not word.startswith("--")]
        for name in sources:
            if not (root / name).exists():
                raise BuildError(f"{line.strip()}: there is no {name} in {root}")
            found.append(root / name)
    return found


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in NOT_SOURCE]
        yield from (Path(folder, name) for name in names)
