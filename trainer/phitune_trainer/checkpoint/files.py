"""The files of one checkpoint: writing a rank's state, sealing the folder, checking and reading it."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from phitune_trainer.engine import Fragment
from phitune_trainer.errors import writing_to
from phitune_trainer.run_layout import sync_folder, write_atomically

MANIFEST = "manifest.json"
TRAINER = "trainer.json"


class DamagedCheckpoint(Exception):
    """A checkpoint is not what was written; the message names the file and what is wrong with it."""


def write_state(folder: Path, rank: int, fragments: Iterable[Fragment]) -> str:
    """Write one rank's stretches, of which there may be none, and return the file's name."""
    tensors = {
        f"{part.kind}|{part.name}|{part.start}": part.values.detach().cpu().contiguous() for part in fragments
    }
    name = f"state-{rank:05d}.safetensors"
    with writing_to(folder / name):
        save_file(tensors, folder / name)
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    return name


def seal(folder: Path, trainer: dict[str, Any]) -> None:
    """Write trainer.json and then, last, the manifest over all files of the folder."""
    write_atomically(folder / TRAINER, json.dumps(trainer, indent=1))
    files = {path.name: _facts(path) for path in sorted(folder.iterdir())}
    write_atomically(folder / MANIFEST, json.dumps({"version": 1, "files": files}, indent=1))
    sync_folder(folder)


def check(folder: Path) -> None:
    """Compare every file with the manifest; DamagedCheckpoint names the first that differs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder / MANIFEST}: {error}") from error
    for name, written in manifest.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing")
        found = _facts(path)
        if found["bytes"] != written["bytes"]:
            raise DamagedCheckpoint(f"{path} has {found['bytes']} bytes, {written['bytes']} were written")
        if found["sha256"] != written["sha256"]:
            raise DamagedCheckpoint(f"{path} is not what was written (SHA-256 differs)")


def read_trainer(folder: Path) -> dict[str, Any]:
    """What `seal` was given."""
    content: dict[str, Any] = json.loads((folder / TRAINER).read_text(encoding="utf-8"))
    return content


class StateReader:
    """Reads any stretch of any parameter's state, from however many ranks' files it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stretches: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = defaultdict(list)
        for path in sorted(folder.glob("state-*.safetensors")):
            file = safe_open(path, framework="pt")
            for key in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 - not a dict
                kind, name, start = key.split("|")
                end = int(start) + file.get_slice(key).get_shape()[0]  # type: ignore[no-untyped-call]
                self._stretches[kind, name].append((int(start), end, file, key))

    def parameters(self) -> set[str]:
        """Names of the parameters whose state was saved."""
        return {name for _, name in self._stretches}

    def __call__(self, kind: str, name: str, start: int, end: int) -> torch.Tensor:
        """Elements [start, end) of the flattened state, float32; DamagedCheckpoint if any is missing."""
        values = torch.empty(end - start, dtype=torch.float32)
        found = 0
        for first, last, file, key in self._stretches[kind, name]:
            low, high = max(first, start), min(last, end)
            if low < high:
                values[low - start : high - start] = file.get_slice(key)[low - first : high - first]
                found += high - low
        if found != end - start:
            raise DamagedCheckpoint(
                f"{self._folder} holds {found} of {end - start} elements [{start}, {end}) of {kind} of {name}"
            )
        return values


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
