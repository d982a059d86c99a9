"""A command with subcommands, of which only the ones that are wanted are imported."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from phitune_cli.arguments import HelpFormatter
from phitune_cli.file_problems import drop_output, file_problem
from phitune_trainer.exit_codes import USER_ERROR
from phitune_trainer.plain_text import inert


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
    parser = argparse.ArgumentParser(
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
        parser.error(f"no command {wanted!r}{_meant(wanted, front)} `{front.prog} --help` lists them")
    args = parser.parse_args(arguments)
    name = f"{front.prog} {wanted}" if wanted else front.prog
    try:
        if args.version:
            print(f"{front.prog} {version()}")
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
        print(
            f"{name}: {package} is not installed; run: pip install 'phitune[{front.extra}]'",
            file=sys.stderr,
        )
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
        print(inert(f"{name}: {problem.message}"), file=sys.stderr)
        return problem.exit_code


def _meant(word: str, front: Front) -> str:
    near = difflib.get_close_matches(word, front.commands, n=1)
    return f": did you mean {near[0]}?" if near else "."


def version() -> str:
    """Version of the installed distribution."""
    from importlib.metadata import version as version_of

    return version_of("phitune")
