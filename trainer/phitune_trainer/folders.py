"""Folders that appear whole or not at all, on volumes that several pods may write at once."""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from phitune_trainer.errors import writing_to

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust say what the system told them."""
_LEFTOVER_SECONDS = 3600
"""A half-written folder that nobody has added to for so long belongs to a process that is gone."""


def is_filled(folder: Path) -> bool:
    """Whether the folder exists and holds anything."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def building(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `out` to write to, and rename it to `out` at the end.

    No lock is needed, and none can be left behind: where several build the same folder, the first to finish
    gives it its name, and what the others made is dropped (with `replace`, the last one's stays). On an error
    nothing is left, and what was there before is.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    aside, former = (out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial") for _ in range(2))
    aside.mkdir()
    try:
        with writing_to(out), _system_errors():
            yield aside
        if replace:
            with suppress(FileNotFoundError):  # none yet, or another process is replacing it
                out.rename(former)
        try:
            aside.rename(out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        for path in (aside, former):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Within this block what the system told safetensors, a full volume say, is the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        if (told := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1]))) from error


def _remove_leftovers(out: Path) -> None:
    for path in out.parent.glob(f".{out.name}.*.partial"):
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # another process has just finished or removed it
            continue
        if age > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
