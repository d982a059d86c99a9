"""The commands that the documentation shows: in blocks without a language, and in code spans of the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from harness.cluster import REPOSITORY

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "charts/phitune/README.md",
    "hack/cluster/README.md",
    *sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")),
)
PROGRAMS = ("make", "phitune", "kubectl", "helm", "python", "python3", "pip", "docker")
"""Whose commands are looked at; other lines of a block are output, or other people's programs."""
_ENDS = ("|", ">", "&&", ";")
"""Words with which a command of the shell ends."""


def blocks(text: str) -> Iterator[str]:
    """The blocks of a page that have no language, lines that go on put together."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not language:
            yield block.replace("\\\n", " ")


def commands_in_blocks(text: str) -> Iterator[list[str]]:
    """Every command of a block, as words; those inside $() and <() too."""
    for block in blocks(text):
        for line in block.splitlines():
            for part in (line.removeprefix("$ "), *re.findall(r"[$<]\(([^()]*)\)", line)):
                if part.split(" ")[0] in PROGRAMS:
                    words = shlex.split(part, comments=True)
                    end = min((words.index(end) for end in _ENDS if end in words), default=len(words))
                    yield words[:end]


def commands_in_text(text: str) -> Iterator[list[str]]:
    """Every code span that begins as a command: often a part of one, such as `phitune run`."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_blocks):
        first, _, rest = span.partition(" ")
        # A word with a colon, or another one of prose, begins a message of the program's.
        if first in PROGRAMS and rest and not re.match(r"is |\.\.\.|\S+: ", rest):
            yield shlex.split(span)


def page(name: str) -> str:
    """The text of a page."""
    return Path(REPOSITORY, name).read_text(encoding="utf-8")
