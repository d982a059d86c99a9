"""`kubectl finetune completion`: the program that kubectl's completion asks about a plugin."""

import argparse
from typing import Final

from phitune_cli import completion
from phitune_cli.arguments import HelpFormatter
from phitune_trainer.exit_codes import DONE

_EPILOG: Final = """\
example:
  kubectl finetune completion > ~/bin/kubectl_complete-finetune
  chmod +x ~/bin/kubectl_complete-finetune

Under that name, on the PATH, kubectl's own completion (`kubectl completion
--help`) finds it in bash, zsh and fish. It needs bash to run.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `completion`."""
    subparsers.add_parser(
        "completion",
        help="what kubectl asks for completion",
        description="Print the program that kubectl's completion asks about this plugin.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )


def main(_: argparse.Namespace) -> int:
    """Print it."""
    from phitune_cli.commands import parser_of
    from phitune_cli.finetune.main import COMMANDS, FRONT

    parser, __ = parser_of(FRONT, COMMANDS)
    print(completion.kubectl("finetune", completion.tree_of(parser)), end="")
    return DONE
