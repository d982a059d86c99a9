"""Files of this machine onto a volume: what is there stays, what was cut off goes on, all by hash."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from phitune_cli.finetune.agent import Agent, Request
from phitune_cli.finetune.problems import ConnectionLost, WrongInput, naming, problem_of_file
from phitune_cli.finetune.volume_agent import PART

PIECE: Final = 2**20
"""Bytes of one request."""

Count = Callable[[int], None]
"""Told of bytes that are where they should be; negative where they have to come again."""


@dataclass(frozen=True)
class LocalFile:
    """A file to send."""

    path: Path
    name: str
    """Relative to the folder on the volume."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Sent:
    """What an upload came to."""

    num_files: int
    num_kept: int
    """Of them: those that were there already."""
    num_bytes: int


def local_files(top: Path) -> list[LocalFile]:
    """Every file below a folder, or the file itself; WrongInput for names that no volume should have."""
    if top.is_file():
        return [LocalFile(top, _name(top, top.parent), top.stat().st_size)]
    if not top.is_dir():
        raise WrongInput(f"{top}: no such file or folder")
    found = []
    for folder, folders, files in os.walk(top, onerror=_refuse):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            path = Path(folder, name)
            if path.is_symlink() and (path.is_dir() or not path.exists()):
                raise WrongInput(
                    f"{path}: a link to {'a folder' if path.is_dir() else 'nothing'}; copy what it means"
                )
            if path.is_dir():
                continue
            if not path.is_file():
                raise WrongInput(f"{path}: neither a file nor a folder")
            found.append(LocalFile(path, _name(path, top), path.stat().st_size))
    if not found:
        raise WrongInput(f"{top}: has no files")
    return found


def _refuse(error: OSError) -> None:
    raise problem_of_file(error) from error


def _name(path: Path, top: Path) -> str:
    name = path.relative_to(top).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise WrongInput(f"{path}: its name is not UTF-8; rename it") from error
    if name.endswith(PART):
        raise WrongInput(f"{path}: names ending in {PART} mark files that are not complete; rename it")
    return name


def upload(agent: Agent, files: Sequence[LocalFile], folder: str, count: Count) -> Sent:
    """Bring the files into a folder of the volume.

    It may be stopped anywhere, and called again with the same files: it ends with the same bytes.
    ConnectionLost comes through; WrongInput where the volume refuses, or a file's size changes meanwhile.
    """
    places = [f"{folder}/{file.name}" for file in files]
    looks = (
        Request({"do": "look", "path": place, "length": file.size})
        for place, file in zip(places, files, strict=True)
    )
    missing: list[tuple[LocalFile, str, _Prefix]] = []
    for file, place, (found, _) in zip(files, places, agent.ask_all(looks), strict=True):
        length = found.get("whole", found.get("part", 0))
        prefix = _Prefix.of(file, min(length, file.size), agent.still)
        if not found or length > file.size or prefix.digest.hexdigest() != found["sha256"]:
            prefix = _Prefix()
        count(prefix.length)
        if "whole" not in found or prefix.length < file.size:
            missing.append((file, place, prefix))
    num_bytes = sum(file.size - prefix.length for file, _, prefix in missing)
    answers = agent.ask_all(_requests(missing, count))
    finished = (answer for answer in answers if "sha256" in answer.fields)
    for (_, place, prefix), answer in zip(missing, finished, strict=True):
        if answer.fields["sha256"] != prefix.digest.hexdigest():
            raise ConnectionLost(f"{place} arrived with other bytes than were sent")
    return Sent(len(files), len(files) - len(missing), num_bytes)


@dataclass
class _Prefix:
    """The first bytes of a file; the digest grows as the rest is read."""

    length: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, file: LocalFile, length: int, still: Callable[[], None]) -> "_Prefix":
        prefix = cls(length)
        with file.path.open("rb") as source:
            for piece in _pieces(file, source, length):
                prefix.digest.update(piece)
                still()
        return prefix


def _pieces(file: LocalFile, source: BinaryIO, length: int) -> Iterator[bytes]:
    """So many bytes. WrongInput where the file does not have the size any more that it is sent with."""
    while length > 0:
        with naming(file.path):
            piece = source.read(min(PIECE, length))
        if not piece:
            break
        yield piece
        length -= len(piece)
    if os.fstat(source.fileno()).st_size != file.size:
        raise WrongInput(f"{file.path}: its size changed while it was read; run the same command again")


def _requests(missing: Sequence[tuple[LocalFile, str, _Prefix]], count: Count) -> Iterator[Request]:
    for file, place, prefix in missing:
        offset = prefix.length
        with file.path.open("rb") as source:
            source.seek(offset)
            if offset == file.size == 0:
                yield Request({"do": "write", "path": place, "offset": 0})
            for piece in _pieces(file, source, file.size - offset):
                yield Request({"do": "write", "path": place, "offset": offset}, piece)
                prefix.digest.update(piece)
                offset += len(piece)
                count(len(piece))
        yield Request({"do": "finish", "path": place, "sha256": prefix.digest.hexdigest()})
