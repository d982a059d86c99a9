"""Whether a picture file was cut short, told by its end: a copy that was interrupted, a full disk.

A header alone does not show it, and a run would find it only when that picture's turn comes.
"""

import os
from pathlib import Path

_TAIL = 64
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


def looks_cut(path: Path) -> bool:
    """Whether the end of a JPEG or PNG file is not where its content says.

    False for other formats. True may be wrong (a file may lack the end that nobody needs): decoding tells.
    """
    with path.open("rb", buffering=0) as file:
        start = file.read(4)
        if not start.startswith((_JPEG, _PNG)):
            return False
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read(_TAIL)
    return (_JPEG_END if start.startswith(_JPEG) else _PNG_END) not in tail
