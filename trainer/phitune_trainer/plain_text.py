"""Text for people; that of others (answers, file names, messages of libraries) is shown, and does nothing."""

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


def counted(number: int, one: str, more: str = "") -> str:
    """So many of something; `more`: the plural, where an s does not make it.

    >>> counted(1, "rank"), counted(2, "rank")
    ('1 rank', '2 ranks')
    """
    return f"{number} {one if number == 1 else more or f'{one}s'}"
