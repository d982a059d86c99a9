"""What can end a rank early, named after what to do about it. No torch here: the launcher imports it.

`reason` is the word for it in the termination message, which the operator reads: those words are a promise
(docs/training.md lists them).
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from phitune_trainer.transfer import size

FAULT = 1
"""Exit code for a fault of the trainer or of the machines: a restart may heal it."""


class UserError(Exception):
    """Something that only the user can mend; the message says what, where and how."""

    reason: ClassVar[str] = "UserError"


class VolumeFull(UserError):
    """The volume, or its quota, takes no more where the run cannot do without."""

    reason = "VolumeFull"


class VolumeReadOnly(UserError):
    """The volume's file system takes no writes at all."""

    reason = "VolumeReadOnly"


class GpuTooSmall(UserError):
    """A GPU's memory is too small for a pass, and there is nothing left that a start could do about it."""

    reason = "OutOfGpuMemory"


class Interrupted(BaseException):
    """The run was asked to stop; the message says what was saved.

    As KeyboardInterrupt no Exception: it may come at any moment, and nothing that handles those should take
    it for a broken picture.
    """

    reason: ClassVar[str] = "Interrupted"


class KnownFault(Exception):
    """A fault whose cause is known: the message says it, and no traceback says more."""

    reason: ClassVar[str]


class OutOfGpuMemory(KnownFault):
    """A GPU's memory was too small for a pass; the next start needs less."""

    reason = "OutOfGpuMemory"


class Diverged(KnownFault):
    """A step gave numbers that are not finite; the weights are as they were before it."""

    reason = "Diverged"


class Unavailable(KnownFault):
    """What is elsewhere has failed for longer than is waited here; a later try may succeed."""


class VolumeStalled(Unavailable):
    """The volume has taken or given nothing for too long."""

    reason = "VolumeStalled"


class RankLost(KnownFault):
    """Another process of this run is gone; the message names it."""

    reason = "RankLost"


class CollectiveTimeout(KnownFault):
    """Another process of this run lives, and was waited for in vain; the message names it."""

    reason = "CollectiveTimeout"


class Superseded(KnownFault):
    """A newer start of the same run has taken over; this one must not write any more."""

    reason = "Superseded"


_REMEDIES: dict[int, tuple[type[UserError], str]] = {
    errno.EROFS: (VolumeReadOnly, "the file system is read-only; mount the volume read-write"),
    errno.ENOSPC: (VolumeFull, "the volume is full; enlarge it, or lower checkpoint.keep"),
    errno.EDQUOT: (VolumeFull, "the volume's quota is used up; raise it, or lower checkpoint.keep"),
}
_DENIED = frozenset({errno.EACCES, errno.EPERM})


def volume_problem(error: BaseException, volume: Path | None) -> UserError | None:
    """What to tell the user if `error` says that a path on `volume` cannot be written, or that they may not
    read it, else None.

    Other paths (the pod's /tmp, a device) are not the user's to mend; nor is anything without a volume.
    """
    if volume is None or not isinstance(error, OSError):
        return None
    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(volume):
        return None
    if error.errno in _DENIED:
        return UserError(_denied(Path(error.filename)))
    if error.errno not in _REMEDIES:
        return None
    kind, remedy = _REMEDIES[error.errno]
    room = _room(volume) if error.errno == errno.ENOSPC else ""
    return kind(f"cannot write {error.filename}{room}: {remedy}")


_OUT_OF_REACH = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENOTCONN,
    }
)


def raise_if_out_of_reach(error: BaseException, path: Path | bytes) -> None:
    """Raise OSError, naming `path`, where `error` is that of a volume which could not give a file.

    It says nothing of the file, and the next start may read it: nobody is to replace it for that.
    """
    if isinstance(error, OSError) and error.errno in _OUT_OF_REACH and isinstance(path, Path):
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _denied(path: Path) -> str:
    """What is refused, and what would do: whoever gives the permission is not to give more of it."""
    verb, needed = "write", "write access to the folder"
    try:
        path.stat()
        if not os.access(path, os.R_OK, effective_ids=True):
            verb, needed = "read", "read access to it"
    except PermissionError:
        verb, needed = "reach", "access to the folders that it is in"
    except OSError:  # it was to be made, or the volume does not answer now
        pass
    return f"cannot {verb} {path}: permission denied; give this user (in a pod: fsGroup 65532) {needed}"


def _room(volume: Path) -> str:
    """What a volume says of itself, for people."""
    try:
        usage = shutil.disk_usage(volume)
    except OSError:
        return ""
    return f" ({size(usage.free)} of {size(usage.total)} are free)"


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Within this block an OSError that names no file, such as that of a write or a sync, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
