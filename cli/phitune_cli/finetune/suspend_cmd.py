"""`kubectl finetune suspend`: a job saves and stops; `resume` goes on from there."""

import argparse
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.options import add_job_argument, add_target_options, connect
from phitune_operator.kinds import FINETUNEJOB
from phitune_trainer.exit_codes import DONE

_EXAMPLE: Final = "kubectl finetune suspend receipts      `resume receipts` lets it go on"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `suspend` and its options."""
    add_switch(
        subparsers,
        "suspend",
        "save and stop a job; `resume` goes on from there",
        "Let a job save and stop (spec.runPolicy.suspend); it gives its GPUs back.",
        _EXAMPLE,
    )


def add_switch(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    command: str,
    summary: str,
    description: str,
    example: str,
) -> None:
    """Add a command that takes the name of a job and nothing else."""
    parser = subparsers.add_parser(
        command,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}\n",
        formatter_class=HelpFormatter,
    )
    add_job_argument(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Say so; 0, or 2 where there is no such job."""
    return set_suspend(args, suspend=True)


def set_suspend(args: argparse.Namespace, *, suspend: bool) -> int:
    """Write the field, and say what comes of it."""
    cluster = connect(args)
    job = cluster.job(args.name)
    cluster.merge(FINETUNEJOB, args.name, {"spec": {"runPolicy": {"suspend": suspend}}})
    phase = (job.get("status") or {}).get("phase", "Pending")
    if phase in ("Succeeded", "Failed"):
        print(f"{args.name} has {phase.lower()} already")
    else:
        print(f"{args.name} saves and stops" if suspend else f"{args.name} goes on from its last checkpoint")
    return DONE
