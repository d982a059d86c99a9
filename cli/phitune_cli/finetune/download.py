"""A folder of a volume onto this machine: what is here stays, what was cut off goes on, all by hash."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from phitune_cli.finetune.agent import Agent, Request
from phitune_cli.finetune.problems import ConnectionLost, Problem, WrongInput, naming
from phitune_cli.finetune.upload import PIECE, Count
from phitune_cli.finetune.volume_agent import part_of


@dataclass(frozen=True)
class RemoteFile:
    """A file on the volume."""

    name: str
    """Relative to the folder that is copied; never above it."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Fetched:
    """What a download came to."""

    num_files: int
    num_kept: int
    """Of them: those that were here already."""
    num_bytes: int


def list_folder(agent: Agent, folder: str) -> list[RemoteFile] | None:
    """The files below a folder of the volume; None where there is no such folder.

    What a pod says is not to be trusted with places on this machine: Problem for names that lead elsewhere.
    """
    found = json.loads(agent.ask("list", folder).body)
    if found is None:
        return None
    files = [RemoteFile(str(name), int(size)) for name, size in found]
    for file in files:
        parts = PurePosixPath(file.name).parts
        if not parts or file.name.startswith("/") or ".." in parts or "\0" in file.name:
            raise Problem(f"the volume names a file {file.name!r} below {folder}; nothing is written there")
    return files


def download(
    agent: Agent, folder: str, files: Sequence[RemoteFile], out: Path, count: Count, *, force: bool = False
) -> Fetched:
    """Bring files of a folder of the volume into `out`.

    It may be stopped anywhere, and called again: it ends with the same bytes. A file has its name only once
    its hash is that of the volume's. WrongInput, before anything is written, where other files have these
    names here, unless `force` lets them be replaced. ConnectionLost and OSError of this machine come through.
    """
    missing: list[tuple[RemoteFile, str]] = []
    looks = (Request({"do": "look", "path": f"{folder}/{file.name}"}) for file in files)
    for file, (found, _) in zip(files, list(agent.ask_all(looks)), strict=True):
        if found.get("whole") != file.size:
            raise WrongInput(f"{folder}/{file.name}: changes while it is copied; wait until it is complete")
        path = out / file.name
        is_as_long = path.is_file() and path.stat().st_size == file.size
        if is_as_long and digest_of(path, agent.still) == found["sha256"]:
            count(file.size)
            continue
        if path.exists() and not force:
            raise WrongInput(
                f"{path}: another file is there; choose another folder, or --force to replace it"
            )
        missing.append((file, found["sha256"]))
    num_bytes = sum(
        _fetch(agent, f"{folder}/{file.name}", file.size, sha256, out / file.name, count)
        for file, sha256 in missing
    )
    return Fetched(len(files), len(files) - len(missing), num_bytes)


def _fetch(agent: Agent, place: str, size: int, sha256: str, path: Path, count: Count) -> int:
    """Bring one file; the bytes that came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    begun = part.stat().st_size if part.is_file() else 0
    if begun > size:
        part.unlink()
        begun = 0
    count(begun)
    came = _append(agent, place, begun, size, part, count)
    if begun and digest_of(part, agent.still) != sha256:
        # The beginning is that of another file, or of an earlier version of this one.
        part.unlink()
        count(-size)
        came += _append(agent, place, 0, size, part, count)
    if (found := digest_of(part, agent.still)) != sha256:
        part.unlink()
        raise ConnectionLost(f"{place} arrived with hash {found}, the volume's is {sha256}")
    part.replace(path)
    return came


def _append(
    agent: Agent, place: str, offset: int, size: int, part: Path, count: Callable[[int], None]
) -> int:
    reads = (
        Request({"do": "read", "path": place, "offset": start, "length": min(PIECE, size - start)})
        for start in range(offset, size, PIECE)
    )
    came = 0
    with naming(part), part.open("ab") as file:
        for _, data in agent.ask_all(reads):
            file.write(data)
            came += len(data)
            count(len(data))
    return came


def digest_of(path: Path, still: Callable[[], None]) -> str:
    """SHA-256 of a file of this machine; says meanwhile that more is to come."""
    digest = hashlib.sha256()
    with naming(path), path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            still()
    return digest.hexdigest()
