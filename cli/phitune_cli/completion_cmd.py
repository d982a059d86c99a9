"""`phitune completion`: a script that teaches a shell to complete the command."""

import argparse
from typing import Final

from phitune_cli import completion
from phitune_cli.arguments import HelpFormatter
from phitune_trainer.exit_codes import DONE

_SHELLS: Final = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}

_EPILOG: Final = """\
examples:
  source <(phitune completion bash)      for this shell; in ~/.bashrc for all
  source <(phitune completion zsh)       in ~/.zshrc, after compinit
  phitune completion fish > ~/.config/fish/completions/phitune.fish
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `completion` and its argument."""
    parser = subparsers.add_parser(
        "completion",
        help="completion for bash, zsh or fish",
        description="Print a script that lets a shell complete commands, options and their values.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("shell", choices=list(_SHELLS), help="the shell")


def main(args: argparse.Namespace) -> int:
    """Print it."""
    from phitune_cli.commands import parser_of
    from phitune_cli.main import COMMANDS, FRONT

    parser, _ = parser_of(FRONT, COMMANDS)
    print(_SHELLS[args.shell]("phitune", completion.tree_of(parser)), end="")
    return DONE
