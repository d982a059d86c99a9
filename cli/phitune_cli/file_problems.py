"""What to say of a file that this machine does not give or take, in place of a traceback.

Only of what is the machine's or the user's to mend, and only where the file is known: any other OSError may
be a mistake of ours.
"""

import errno
import os
import stat
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from phitune_trainer.errors import FAULT
from phitune_trainer.exit_codes import USER_ERROR

STANDARD_OUTPUT: Final = "standard output"
"""The one place that an error of writing does not name."""


class FileProblem(NamedTuple):
    """How a command ends for want of a file."""

    exit_code: int
    message: str


_NO_ROOM: Final = "make room there, or choose another disk"
_FAILING: Final = "the disk or the network volume fails; the same command again may succeed, else look at it"
_ELSEWHERE: Final = "choose another path"

_REMEDIES: Final[Mapping[int, tuple[int, str]]] = {
    errno.EACCES: (USER_ERROR, "give this user the permission, or choose another path"),
    errno.EPERM: (USER_ERROR, "give this user the permission, or choose another path"),
    errno.EROFS: (USER_ERROR, "mount it read-write, or choose another path"),
    errno.ENOSPC: (USER_ERROR, _NO_ROOM),
    errno.EDQUOT: (USER_ERROR, _NO_ROOM),
    errno.EFBIG: (USER_ERROR, "choose a disk that takes files of this size"),
    errno.EEXIST: (USER_ERROR, _ELSEWHERE),
    errno.ENOTDIR: (USER_ERROR, _ELSEWHERE),
    errno.EISDIR: (USER_ERROR, _ELSEWHERE),
    errno.EINVAL: (USER_ERROR, _ELSEWHERE),
    errno.EBUSY: (USER_ERROR, _ELSEWHERE),
    errno.ENAMETOOLONG: (USER_ERROR, _ELSEWHERE),
    errno.ELOOP: (USER_ERROR, _ELSEWHERE),
    errno.EIO: (FAULT, _FAILING),
    errno.EREMOTEIO: (FAULT, _FAILING),
    errno.ESTALE: (FAULT, _FAILING),
    errno.ETIMEDOUT: (FAULT, _FAILING),
    errno.EHOSTDOWN: (FAULT, _FAILING),
    errno.EHOSTUNREACH: (FAULT, _FAILING),
    errno.ENOTCONN: (FAULT, _FAILING),
}
_OF_WRITES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def file_problem(error: OSError) -> FileProblem | None:
    """How to end a command that failed with `error`; None where only a traceback would say more."""
    if error.errno is None or error.errno not in _REMEDIES:
        return None
    where = error.filename
    if where is None and error.errno in _OF_WRITES and _output_refuses(error.errno):
        drop_output()
        where = STANDARD_OUTPUT
    if not isinstance(where, str):
        return None
    code, remedy = _REMEDIES[error.errno]
    return FileProblem(code, f"{where}: {os.strerror(error.errno)}; {remedy}")


def _output_refuses(number: int) -> bool:
    """Whether it is standard output that fails so: one more line break there then fails again."""
    try:
        sys.stdout.flush()
        mode = os.fstat(sys.stdout.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            os.write(sys.stdout.fileno(), b"\n")
    except OSError as again:
        return again.errno == number
    return False


def drop_output() -> None:
    """Send what standard output still holds, and all that follows, nowhere: Python would try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
