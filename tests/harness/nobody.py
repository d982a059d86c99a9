"""A user with no rights, as a pod is on a volume of somebody else's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UID = 65534


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Within it, this process is kept out by what keeps others out; the way to `folder` is open.

    Where the tests do not run as root they are kept out by modes anyway.
    """
    if os.geteuid() != 0:
        yield
        return
    closed = {one: mode for one in (folder, *folder.parents) if (mode := one.stat().st_mode) & 0o011 != 0o011}
    for one, mode in closed.items():
        one.chmod(mode | 0o011)
    os.seteuid(_UID)
    try:
        yield
    finally:
        os.seteuid(0)
        for one, mode in closed.items():
            one.chmod(mode)
