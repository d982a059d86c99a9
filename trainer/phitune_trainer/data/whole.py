"""Whether a picture file was cut short, told by its end: a copy that was interrupted, a full disk.

A header alone does not show it, and a run would find it only when that picture's turn comes.
"""

import os
from typing import IO

_TAIL = 64
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


def looks_cut(file: IO[bytes]) -> bool:
    """Whether the end of a JPEG or PNG file is not where its content says; its position is moved.

    False for other formats. True may be wrong (a file may lack the end that nobody needs): decoding tells.
    """
    file.seek(0)
    start = file.read(4)
    if not start.startswith((_JPEG, _PNG)):
        return False
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    tail = file.read(_TAIL)
    return (_JPEG_END if start.startswith(_JPEG) else _PNG_END) not in tail
