"""`phitune data`: make a data set, or check one; each kind is a module of its own."""

import argparse
from collections.abc import Mapping
from typing import Final, Protocol

from phitune_cli import data_check_cmd, data_digits_cmd, data_ucf101_cmd
from phitune_cli.arguments import HelpFormatter


class _Kind(Protocol):
    def add_parser(self, kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None: ...

    def main(self, args: argparse.Namespace) -> int: ...


_KINDS: Final[Mapping[str, _Kind]] = {
    "check": data_check_cmd,
    "digits": data_digits_cmd,
    "ucf101": data_ucf101_cmd,
}

_EPILOG: Final = """\
examples:
  phitune data check receipts/train.jsonl     is anything wrong with it?
  phitune data digits --out data/digits       something small to train on
  phitune data check --help                   more on one kind
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `data` to the command line."""
    words = "check a data set, or make one"
    parser = subparsers.add_parser(
        "data",
        help=words,
        description=f"{words.capitalize()}.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind in _KINDS.values():
        kind.add_parser(kinds)


def main(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code."""
    return _KINDS[args.kind].main(args)
