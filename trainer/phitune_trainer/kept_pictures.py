"""What a frozen vision part makes of a picture, kept from one epoch, or one scoring, to the next.

As files in /dev/shm, which is memory: the ranks of a pod share them, since the next epoch gives a picture to
whichever of them. What is kept stays; where there is no more room, no more is kept: pictures that are trained
on come up as often as each other, once an epoch, and so do those that are scored, once a scoring (who goes
first, `build.scored_are_kept_from` says). Whatever goes wrong with the files, a picture that is not kept is
embedded again: no run ends for it.
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from phitune_trainer.host_copy import HostCopy
from phitune_trainer.host_memory import available_memory
from phitune_trainer.model import Batch
from phitune_trainer.model.vision import VisionEmbedding
from phitune_trainer.shared_folder import PREFIX, SHARED_MEMORY, hold, remove_unheld

SHARE: Final = 2
"""One part in so many of what is free is used: the ranks, NCCL and others need memory too."""


class KeptPictures:
    """The pictures of one rank's batches, embedded once each by `vision`, as long as `room` bytes suffice.

    No more is kept either once less than `least_free` bytes would be left. Numbers do not depend on what is
    kept: a frozen vision part embeds each picture by itself.
    """

    def __init__(self, vision: VisionEmbedding, folder: Path, room: int, *, least_free: int = 0) -> None:
        size = f"up to {room / 2**30:.1f} GiB a rank"
        self.summary = f"pictures that come up again are embedded once and kept, {size} in {folder.parent}"
        self._vision = vision
        self._folder = folder
        self._held: int | None = None
        self._room = room
        self._least_free = least_free
        self._to_write: deque[tuple[str, HostCopy]] = deque()
        self._writing = Lock()
        """Batches are prepared in one thread while held-out samples are scored in another."""

    def __enter__(self) -> None:
        """Make the folder; nothing is kept where that is not possible."""
        try:
            self._held = hold(self._folder)
        except OSError:
            self._room = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder; the last rank of the pod removes it."""
        if self._held is not None:
            os.close(self._held)
            remove_unheld(self._folder.parent)

    def look_up(self, batch: Batch) -> Batch:
        """The batch with what is known of its pictures. For the thread that prepares batches."""
        keys, known = self._find(batch.pictures)
        return replace(batch, picture_keys=keys, embedded=known)

    def fill(self, batch: Batch) -> Batch:
        """The same batch, on its device, with its pictures embedded, which are kept if there is room."""
        triples = zip(batch.pictures, batch.picture_keys, batch.embedded, strict=True)
        return replace(
            batch,
            embedded=tuple(
                self._embed(picture, key, keep=True) if rows is None else rows
                for picture, key, rows in triples
            ),
        )

    def each(self, pictures: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, ...]:
        """`VisionEmbedding.each` of pictures on the host, with what `look_up` does, and `fill` if `keep`."""
        device = self._vision.device
        triples = zip(pictures, *self._find(pictures), strict=True)
        return tuple(
            self._embed(picture.to(device), key, keep=keep) if rows is None else rows.to(device)
            for picture, key, rows in triples
        )

    def _find(self, pictures: Sequence[Tensor]) -> tuple[tuple[str, ...], tuple[Tensor | None, ...]]:
        """The keys of pictures, and what is kept of each."""
        self._write_what_is_ready()
        keys = tuple(_key_of(picture) for picture in pictures)
        return keys, tuple(self._read(key, picture) for key, picture in zip(keys, pictures, strict=True))

    def _embed(self, picture: Tensor, key: str, *, keep: bool) -> Tensor:
        rows: Tensor = self._vision([picture])
        if keep:
            self._keep(key, rows)
        return rows

    def _keep(self, key: str, rows: Tensor) -> None:
        """Start the copy to the host, which nobody waits for; `_write_what_is_ready` does the rest."""
        if rows.nbytes <= self._room:
            self._to_write.append((key, HostCopy(rows)))

    def _write_what_is_ready(self) -> None:
        with self._writing:
            while self._to_write and self._to_write[0][1].is_there:
                key, rows = self._to_write.popleft()
                self._write(key, rows.wait())

    def _write(self, key: str, rows: Tensor) -> None:
        file = self._folder / key
        aside = file.with_name(f".{key}-{os.getpid()}")
        try:
            if rows.nbytes > self._room or file.exists():  # by now, or by another rank
                return
            if free_memory(self._folder) - rows.nbytes < self._least_free:
                self._room = 0
                return
            aside.write_bytes(safetensors.torch.save({"rows": rows}))
            aside.rename(file)
            self._room -= rows.nbytes
        except OSError:
            with suppress(OSError):
                aside.unlink()
            self._room = 0

    def _read(self, key: str, picture: Tensor) -> Tensor | None:
        """What is kept of a picture; None where that is nothing, or not what it should be."""
        if self._held is None:
            return None
        try:
            rows = safetensors.torch.load((self._folder / key).read_bytes())["rows"]
        except (OSError, SafetensorError, KeyError):
            return None
        expected = self._vision.num_tokens(picture), self._vision.hidden_size
        return rows if rows.shape == expected and rows.dtype == self._vision.dtype else None


def choose_kept_pictures(
    vision: VisionEmbedding,
    *,
    start: str,
    come_again: bool,
    num_crops: int,
    ranks: int,
    reserved: int,
) -> KeptPictures | None:
    """Where it is worth it: vision frozen, pictures that come up more than once, and room for one.

    `start` names this start of the run, unlike any other; `ranks` are those of this pod, that share the room.
    `reserved`: bytes of memory that they will take besides.
    """
    if not SHARED_MEMORY.is_dir():
        return None
    remove_unheld(SHARED_MEMORY)  # before it is measured what is free
    if not vision.is_frozen or not come_again:
        return None
    free = free_memory(SHARED_MEMORY, reserved)
    room = free // SHARE // ranks
    if room < vision.num_bytes(num_crops):
        return None
    folder = SHARED_MEMORY / f"{PREFIX}{os.getppid()}-{start}"
    return KeptPictures(vision, folder, room, least_free=free // (2 * SHARE))


def free_memory(folder: Path, reserved: int = 0) -> int:
    """Bytes that may still be written to a folder of /dev/shm, if so many are taken elsewhere."""
    return min(shutil.disk_usage(folder).free, max(0, available_memory() - reserved))


def _key_of(picture: Tensor) -> str:
    """Of its size and all its bytes."""
    digest = hashlib.blake2b(repr(tuple(picture.shape)).encode(), digest_size=20)
    digest.update(memoryview(picture.contiguous().numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()
