"""A command with subcommands, of which only the ones that are wanted are imported."""

import argparse
import importlib
from collections.abc import Container, Mapping
from typing import NamedTuple, Protocol, cast


class Command(NamedTuple):
    """A subcommand: where it is implemented, and its line in the help."""

    module: str
    summary: str


class CommandModule(Protocol):
    """What the module of a subcommand offers."""

    def add_parser(self, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add the parser named as the subcommand, with its options."""

    def main(self, args: argparse.Namespace) -> int:
        """Do it; the result is the exit code."""


class Front(NamedTuple):
    """The command itself."""

    prog: str
    description: str
    epilog: str
    commands: Mapping[str, Command]


def parser_of(
    front: Front, wanted: Container[str]
) -> tuple[argparse.ArgumentParser, dict[str, CommandModule]]:
    """The parser, and the modules of the wanted subcommands; of the others it knows the names alone."""
    parser = argparse.ArgumentParser(
        prog=front.prog,
        description=front.description,
        epilog=front.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    modules = {}
    for name, command in front.commands.items():
        if name in wanted:
            modules[name] = cast(CommandModule, importlib.import_module(command.module))
            modules[name].add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=command.summary)
    return parser, modules


def version() -> str:
    """Version of the installed distribution."""
    from importlib.metadata import version as version_of

    return version_of("phitune")
