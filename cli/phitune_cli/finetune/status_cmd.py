"""`kubectl finetune status`: a job on one screen that is drawn again and again, or all jobs in a table."""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.options import add_job_argument, add_output_option, add_target_options, connect
from phitune_cli.finetune.patience import patiently
from phitune_cli.finetune.status_screen import is_over, screen, table
from phitune_operator.kinds import FINETUNEJOB
from phitune_trainer.exit_codes import DONE

_SECONDS: Final = 2.0
_CLEAR_SCREEN: Final = "\x1b[H\x1b[2J"

_EPILOG: Final = """\
examples:
  kubectl finetune status                    every job of the namespace
  kubectl finetune status receipts           one of them, until it ends
  kubectl finetune status receipts --once    as it is now; so it is in a pipe
  kubectl finetune status receipts -o json | jq .status.progress
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `status` and its options."""
    parser = subparsers.add_parser(
        "status",
        help="how far is it? one screen, refreshed",
        description="Show how far a job is, why it waits, how it ended; without NAME, all jobs.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_job_argument(parser, default="all")
    parser.add_argument("--once", action="store_true", help="show it once, do not refresh")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Show it; 0 whatever the job's phase, 2 where there is no such job."""
    cluster = connect(args)
    if args.output == "json":
        found = cluster.job(args.name) if args.name else {"items": cluster.list(FINETUNEJOB)}
        print(json.dumps(found, indent=2))
        return DONE
    refreshes = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not args.once
    text, is_last = _look(cluster, args.name)
    while refreshes and not is_last:
        print(f"{_CLEAR_SCREEN}{text}", flush=True)
        time.sleep(_SECONDS)
        text, is_last = patiently(lambda: _look(cluster, args.name), pause=lambda: time.sleep(_SECONDS))
    print(f"{_CLEAR_SCREEN}{text}" if refreshes else text, flush=True)
    return DONE


def _look(cluster: Cluster, name: str | None) -> tuple[str, bool]:
    """The text to show, and whether it will not change any more."""
    now = datetime.now(UTC)
    if name is not None:
        job = cluster.job(name)
        return screen(job, now), is_over(job)
    jobs = cluster.list(FINETUNEJOB)
    if not jobs:
        return f"no FineTuneJobs in namespace {cluster.namespace}; kubectl finetune submit makes one", True
    return table(jobs, now), all(map(is_over, jobs))
