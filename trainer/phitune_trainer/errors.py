"""What can end a rank early, named after what to do about it. No torch here: the launcher imports it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAULT = 1
"""Exit code for a fault of the trainer or of the machines: a restart may heal it."""


class UserError(Exception):
    """Something that only the user can mend; the message says what, where and how."""


class Interrupted(BaseException):
    """The run was asked to stop; the message says what was saved.

    As KeyboardInterrupt no Exception: it may come at any moment, and nothing that handles those should take
    it for a broken picture.
    """


class Unavailable(Exception):
    """What is elsewhere has failed for longer than is waited here; a later try may succeed."""


class PeerLost(Exception):
    """Another process of this run is gone, or is waited for in vain; the message names it."""


class Superseded(Exception):
    """A newer start of the same run has taken over; this one must not write any more."""


_REMEDIES = {
    errno.EROFS: "the file system is read-only; mount the volume read-write",
    errno.EACCES: "permission denied; give this user (in a pod: fsGroup 65532) write access to the folder",
    errno.EPERM: "permission denied; give this user (in a pod: fsGroup 65532) write access to the folder",
    errno.ENOSPC: "the volume is full; enlarge it, or lower checkpoint.keep",
    errno.EDQUOT: "the volume's quota is used up; raise it, or lower checkpoint.keep",
}


def volume_problem(error: BaseException, volume: Path | None) -> str | None:
    """What to tell the user if `error` says that a path on `volume` cannot be written, else None.

    Other paths (the pod's /tmp, a device) are not the user's to mend; nor is anything without a volume.
    """
    if volume is None or not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(volume):
        return None
    return f"cannot write {error.filename}: {_REMEDIES[error.errno]}"


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Within this block an OSError that names no file, such as that of a write or a sync, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
