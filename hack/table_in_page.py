"""A table of a page in docs/ that a command writes, between a line that names the command and an end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

END = "<!-- end -->\n"


def main(
    arguments: list[str],
    *,
    command: str,
    description: str | None,
    page: Path,
    table: Callable[[], Iterable[str]],
) -> int:
    """Write the table, or with --check compare it; 1 if it differs, or the page has no place for it.

    `command`: path of the script that calls, from the repository's root.
    """
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the page differs")
    options = parser.parse_args(arguments)
    begin = f"<!-- written by {command} -->\n"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not end:
        print(f"{page}: there is no place for the table, {begin.strip()} to {END.strip()}", file=sys.stderr)
        return 1
    wanted = "".join([before, begin, "\n", *(f"{line}\n" for line in table()), "\n", END, after])
    if wanted == text:
        return 0
    if options.check:
        print(f"{page}: differs from the memory model; run python {command}", file=sys.stderr)
        return 1
    page.write_text(wanted, encoding="utf-8")
    print(f"{page}: written")
    return 0
