"""A command with subcommands, of which only the ones that are wanted are imported."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from phitune_cli.arguments import HelpFormatter, Parser
from phitune_cli.file_problems import drop_output, file_problem
from phitune_cli.saying import note, say
from phitune_trainer.exit_codes import USER_ERROR


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
    optional: Sequence[str]
    """Packages that an installation may lack."""
    extra: str
    """The extra that brings them."""


def parser_of(
    front: Front, wanted: Container[str]
) -> tuple[argparse.ArgumentParser, dict[str, CommandModule]]:
    """The parser, and the modules of the wanted subcommands; of the others it knows the names alone."""
    parser: argparse.ArgumentParser = Parser(
        prog=front.prog,
        description=front.description,
        epilog=front.epilog,
        formatter_class=HelpFormatter,
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


def run(front: Front, arguments: Sequence[str] | None) -> int:
    """Run one subcommand; the result is the exit code of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    parser, modules = parser_of(front, [] if wanted is None else [wanted])
    if wanted is not None and wanted not in front.commands:
        parser.error(f"no command {wanted!r}{_meant(arguments, wanted, front)}")
    args = parser.parse_args(arguments)
    name = f"{front.prog} {wanted}" if wanted else front.prog
    try:
        if args.version:
            say(f"{front.prog} {version()}")
            code = 0
        elif wanted in modules:
            code = modules[wanted].main(args)
        else:
            parser.print_help(sys.stderr)
            code = USER_ERROR
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in front.optional:
            raise
        note(f"{name}: {package} is not installed; run: pip install 'phitune[{front.extra}]'")
        return USER_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing to say, and nowhere to say it.
        drop_output()
        return 141
    except OSError as error:
        if (problem := file_problem(error)) is None:
            raise
        note(f"{name}: {problem.message}")
        return problem.exit_code


def _meant(arguments: Sequence[str], word: str, front: Front) -> str:
    command = next((one for one in arguments if one in front.commands), None)
    if command is not None and arguments[0] != word:
        return f": options come after the command, as in {front.prog} {command} {arguments[0]} {word}"
    near = difflib.get_close_matches(word, front.commands, n=1)
    return f"{f': did you mean {near[0]}?' if near else '.'} `{front.prog} --help` lists them"


def version() -> str:
    """Version of the installed distribution."""
    from importlib.metadata import version as version_of

    return version_of("phitune")
