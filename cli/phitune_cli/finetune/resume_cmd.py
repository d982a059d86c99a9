"""`kubectl finetune resume`: a suspended job goes on."""

import argparse

from phitune_cli.finetune.suspend_cmd import add_switch, set_suspend


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `resume` and its options."""
    add_switch(
        subparsers,
        "resume",
        "let a suspended job go on",
        "Let a suspended job go on from its last checkpoint.",
        "kubectl finetune resume receipts",
    )


def main(args: argparse.Namespace) -> int:
    """Say so; 0, or 2 where there is no such job."""
    return set_suspend(args, suspend=False)
