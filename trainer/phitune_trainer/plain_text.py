"""Text of others (answers, file names, messages of libraries) that shows itself and does nothing else."""

import re

_ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, with which terminal escapes begin, but tab and line feed; line ends of Unicode; what
turns the direction of writing; half characters, which stand for bytes of file names and cannot be printed."""


def inert(text: str) -> str:
    r"""`text` with every character that a terminal or a reader would act upon spelled out.

    >>> inert("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _ACTS.sub(lambda found: ascii(found[0])[1:-1], text)
