"""`kubectl finetune resume`: a suspended job goes on."""

import argparse
from typing import Final

from phitune_cli.finetune.options import add_target_options
from phitune_cli.finetune.suspend_cmd import set_suspend

_EPILOG: Final = """\
example:
  kubectl finetune resume receipts
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `resume` and its options."""
    parser = subparsers.add_parser(
        "resume",
        help="let a suspended job go on",
        description="Let a suspended job go on from its last checkpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the job")
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Say so; 0, or 2 where there is no such job."""
    return set_suspend(args, suspend=False)
