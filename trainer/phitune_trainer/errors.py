"""What can end a rank early, named after what to do about it. No torch here: the launcher imports it."""

import errno

FAULT = 1
"""Exit code for a fault of the trainer or of the machines: a restart may heal it."""


class UserError(Exception):
    """Something that only the user can mend; the message says what, where and how."""


class Interrupted(Exception):
    """The run was asked to stop; the message says what was saved."""


class Superseded(Exception):
    """A newer start of the same run has taken over; this one must not write any more."""


_REMEDIES = {
    errno.EROFS: "the file system is read-only; mount the volume read-write",
    errno.EACCES: "permission denied; give this user (in a pod: fsGroup 65532) write access to the folder",
    errno.EPERM: "permission denied; give this user (in a pod: fsGroup 65532) write access to the folder",
    errno.ENOSPC: "the volume is full; enlarge it, or lower checkpoint.keep",
    errno.EDQUOT: "the volume's quota is used up; raise it, or lower checkpoint.keep",
}


def volume_problem(error: BaseException) -> str | None:
    """What to tell the user if `error` says that the volume cannot be written, else None."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return f"cannot write {error.filename or 'to the volume'}: {_REMEDIES[error.errno]}"
    return None
