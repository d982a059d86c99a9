"""What the parsers of all commands share: how help is laid out, and values that several options take."""

import argparse
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from phitune_trainer.plain_text import inert

_WIDEST: Final = 110
"""Columns beyond which text is hard to read."""
_COMMENT: Final = re.compile(r"(?<=\S) {2,}(?=\S)")
"""Between an example and what it does."""
_COMMAND: Final = re.compile(r"  (phitune|kubectl) ")
_PART: Final = re.compile(r"""(?:-\S+[ ](?!-))?(?:[^\s"]|"[^"]*")+""")
"""A word of a command, or an option with its value."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs up to the terminal's width; an indented line, such as an example, stays one."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(_filled(text, min(width, _WIDEST)))


class Parser(argparse.ArgumentParser):
    """Words that it refuses do nothing to a terminal: shell patterns bring names of others' files.

    What a subcommand does not know is refused with the usage of the subcommand.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Know all: a parser calls this of its subparsers, and would refuse the rest by its own usage."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Say it with the usage, and exit with 2."""
        super().error(inert(message))


def _filled(text: str, width: int) -> Iterator[str]:
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_prose = bool(line) and line[0] != " "
        if is_prose:
            paragraph.append(line)
        if paragraph and (not is_prose or line.endswith(":")):
            yield from textwrap.wrap(" ".join(paragraph), width, break_on_hyphens=False)
            paragraph = []
        if not is_prose:
            yield from _wrapped(line, width)


def _wrapped(line: str, width: int) -> list[str]:
    """A line; where it is too long, what goes on stands under its comment, or is indented."""
    if len(line) <= width:
        return [line]
    begins = len(line) - len(line.lstrip())
    comment = _COMMENT.search(line)
    has_room = comment is not None and comment.end() < width - 20
    if _COMMAND.match(line) and not has_room:
        command, words = (line[: comment.start()], line[comment.end() :]) if comment else (line, "")
        indent = " " * (begins + 4)
        return [
            *_continued(command, width, indent),
            *textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent),
        ]
    column = comment.end() if comment and has_room else begins + 4
    return textwrap.wrap(
        line, width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False
    )


def _continued(command: str, width: int, indent: str) -> list[str]:
    """A command on as many lines as it takes, which a shell reads as one."""
    first, *parts = _PART.findall(command)
    lines = [f"  {first}"]
    for part in parts:
        if len(f"{lines[-1]} {part} \\") <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"{indent}{part}")
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def add_form_option(parser: argparse.ArgumentParser) -> None:
    """Add `-o`: whether the result is printed as text or as JSON; `args.form` is then one of the two."""
    parser.add_argument(
        "-o", dest="form", choices=["text", "json"], default="text", help="form of the result (default: text)"
    )
