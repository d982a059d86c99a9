"""The files of one checkpoint: writing a rank's state, sealing the folder, checking and reading it."""

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from phitune_trainer.engine import Fragment
from phitune_trainer.errors import UserError, writing_to
from phitune_trainer.run_layout import sync_folder, write_atomically

MANIFEST: Final = "manifest.json"
TRAINER: Final = "trainer.json"
VERSION: Final = 2
"""Of the layout of a checkpoint."""

_CHUNK: Final = 1 << 24
_READERS: Final = 4
"""Files that are checked at a time: SHA-256 keeps a core busy with what one stream of a volume gives."""
_ALIGNMENT: Final = 8
"""Of the first tensor in a safetensors file."""
_NO_SUCH_FILE: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What is damage. Any other error is the volume's, and may be gone at the next start."""


class DamagedCheckpoint(Exception):
    """A checkpoint is not what was written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class FileFacts:
    """What tells a file from a damaged one."""

    name: str
    num_bytes: int
    sha256: str


def write_state(
    folder: Path, rank: int, fragments: Sequence[Fragment], on_bytes: Callable[[int], None]
) -> FileFacts:
    """Write one rank's stretches, of which there may be none, as safetensors; they must be on the CPU.

    They are hashed on their way, so that the file is not read again. `on_bytes` is told how many bytes more
    are written, every few megabytes. On return the file has reached the disk.
    """
    path = folder / f"state-{rank:05d}.safetensors"
    digest, num_bytes = hashlib.sha256(), 0
    with writing_to(path), path.open("wb") as file:
        for content in _safetensors(fragments):
            for start in range(0, len(content), _CHUNK):
                chunk = content[start : start + _CHUNK]
                digest.update(chunk)
                file.write(chunk)
                num_bytes += len(chunk)
                on_bytes(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        sync_folder(folder)
    return FileFacts(path.name, num_bytes, digest.hexdigest())


def seal(folder: Path, trainer: Mapping[str, Any], states: Iterable[FileFacts]) -> None:
    """Write trainer.json and then, last, the manifest over it and the ranks' files."""
    text = json.dumps(trainer, indent=1)
    write_atomically(folder / TRAINER, text)
    about = FileFacts(TRAINER, len(text.encode()), hashlib.sha256(text.encode()).hexdigest())
    files = {one.name: {"bytes": one.num_bytes, "sha256": one.sha256} for one in (*states, about)}
    content = {"version": VERSION, "files": files}
    write_atomically(folder / MANIFEST, json.dumps({**content, "sha256": _digest(content)}, indent=1))


def check(folder: Path) -> None:
    """Compare every file with the manifest; DamagedCheckpoint names the first that differs."""
    files = read_manifest(folder)
    raise_first(files, find_damage(folder, files, lambda _: None))


def find_damage(folder: Path, files: Sequence[FileFacts], on_bytes: Callable[[int], None]) -> dict[str, str]:
    """What is wrong with which of these files, by their names; several are read at a time.

    `on_bytes` is told how many bytes more are read, every few megabytes, by several threads.
    """
    with ThreadPoolExecutor(_READERS, thread_name_prefix="check") as pool:
        found = pool.map(lambda file: _damage_of(folder, file, on_bytes), files)
        return {file.name: damage for file, damage in zip(files, found, strict=True) if damage is not None}


def raise_first(files: Iterable[FileFacts], damage: Mapping[str, str]) -> None:
    """DamagedCheckpoint for the first file that has any."""
    for file in files:
        if file.name in damage:
            raise DamagedCheckpoint(damage[file.name])


def is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there, with its size: `check` without reading what is large."""
    try:
        return not any(_damage_of_size(folder, file) for file in read_manifest(folder))
    except DamagedCheckpoint:
        return False


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

    def num_elements(self, name: str) -> int:
        """Elements of a parameter, as far as they were saved."""
        return max((end for _, end, _, _ in self._stretches["weight", name]), default=0)

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


def _safetensors(fragments: Sequence[Fragment]) -> Iterable[memoryview]:
    """The bytes of a safetensors file: the header's length, the header, and the tensors one after another."""
    header, end = {}, 0
    for part in fragments:
        start, end = end, end + part.values.nbytes
        header[f"{part.kind}|{part.name}|{part.start}"] = {
            "dtype": "F32",
            "shape": [part.values.numel()],
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for part in fragments:
        yield part.values.view(torch.uint8).numpy().data


def read_manifest(folder: Path) -> list[FileFacts]:
    """All files but the manifest. DamagedCheckpoint where it is not what was written; UserError where this
    version does not read it; OSError where the volume does not give it, which says nothing of the checkpoint.
    """
    path = folder / MANIFEST
    try:
        with writing_to(path):  # or for reading: an error of the volume names it
            content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise DamagedCheckpoint(f"{path} is not what was written (SHA-256 differs)")
        if content["version"] == VERSION:
            return [FileFacts(name, one["bytes"], one["sha256"]) for name, one in content["files"].items()]
    except _NO_SUCH_FILE as error:
        raise DamagedCheckpoint(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path}: {error}") from error
    raise UserError(
        f"{path} has version {content['version']}, this Phitune reads {VERSION}; continue with the Phitune "
        f"that wrote it, or start a new run"
    )


def _damage_of(folder: Path, written: FileFacts, on_bytes: Callable[[int], None]) -> str | None:
    if (damage := _damage_of_size(folder, written)) is not None:
        return damage
    digest = hashlib.sha256()
    with (folder / written.name).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    if digest.hexdigest() == written.sha256:
        return None
    return f"{folder / written.name} is not what was written (SHA-256 differs)"


def _damage_of_size(folder: Path, written: FileFacts) -> str | None:
    path = folder / written.name
    try:
        found = path.stat()  # rather than `is_file`, which takes whatever the volume answers for a no
    except _NO_SUCH_FILE:
        return f"{path} is missing"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is missing"
    if found.st_size != written.num_bytes:
        return f"{path} has {found.st_size} bytes, {written.num_bytes} were written"
    return None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
