"""Folders in /dev/shm, which is memory, that the ranks of a pod share and that outlive none of them.

A rank holds its folder by a lock, which the kernel takes back however the rank ends. Whoever finds a folder
of ours that nobody holds removes it. Process numbers would not tell: other containers count theirs anew, and
may have the same /dev/shm. Imports no torch: the launcher removes too.
"""

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
"""In a pod of 64 MB, or of what `resources.sharedMemory` asks for, which is part of the pod's memory."""
PREFIX: Final = "phitune-pictures-"
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def hold(folder: Path) -> int:
    """Make the folder, if another rank has not, and hold it until the handle that is returned is closed.

    OSError where that is not possible; PermissionError where others could change what is in it.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    handle = os.open(folder, _OPEN)
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{folder} is open to others")
        fcntl.flock(handle, fcntl.LOCK_SH)
        if not os.path.samestat(found, folder.lstat()):
            raise FileNotFoundError(f"{folder} was removed by another process")
    except OSError:
        os.close(handle)
        raise
    return handle


def remove_unheld(memory: Path = SHARED_MEMORY) -> None:
    """Remove those of this user's folders that nobody holds, as far as that is possible."""
    for folder in memory.glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_if_unheld(folder)


def _remove_if_unheld(folder: Path) -> None:
    handle = os.open(folder, _OPEN)
    try:
        if os.fstat(handle).st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(handle)
