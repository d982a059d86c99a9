"""`kubectl finetune report`: a job's report.html, copied here and opened."""

import argparse
import json
import sys
import webbrowser
from pathlib import Path
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.agent import Agent
from phitune_cli.finetune.options import (
    add_helper_options,
    add_job_argument,
    add_output_option,
    add_target_options,
    connect,
)
from phitune_cli.finetune.problems import naming, problem_of_file
from phitune_cli.finetune.transfer_line import go_on_when_cut_off
from phitune_cli.finetune.upload import PIECE
from phitune_cli.finetune.volumes import beside_volume_of, run_folder
from phitune_cli.saying import note
from phitune_operator.kinds import Object
from phitune_trainer.exit_codes import DONE
from phitune_trainer.plain_text import inert

_EPILOG: Final = """\
examples:
  kubectl finetune report receipts                       and the browser opens
  kubectl finetune report receipts --to now.html --no-open

The report of a run that is complete is copied. For a run that still trains, was
stopped or has failed it is made anew, in a pod of the job's or in a helper pod.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `report` and its options."""
    parser = subparsers.add_parser(
        "report",
        help="copy a job's report.html here and open it",
        description="Copy a job's report here, whatever state the job is in, and open it.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_job_argument(parser)
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="where to write it (default: NAME-report.html)"
    )
    parser.add_argument(
        "--no-open", action="store_true", help="only copy it; so it is where there is no terminal"
    )
    add_helper_options(parser, default="the job's")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Copy and open it; 0, or 2 where there is none to be had."""
    cluster = connect(args)
    job = cluster.job(args.name)
    out = args.to or Path(f"{args.name}-report.html")

    def fetch() -> bytes:
        with beside_volume_of(
            cluster, job, image=args.image, pull_secrets=args.image_pull_secret, say=note
        ) as agent:
            return read_report(agent, job)

    page = go_on_when_cut_off(fetch)
    try:
        with naming(out):
            out.write_bytes(page)
    except OSError as error:
        raise problem_of_file(error) from error
    print(json.dumps({"path": str(out), "bytes": len(page)}) if args.output == "json" else inert(str(out)))
    if not args.no_open and sys.stdout.isatty() and not webbrowser.open(out.resolve().as_uri()):
        note("no browser to open it in")
    return DONE


def read_report(agent: Agent, job: Object) -> bytes:
    """The page of a run that is complete, else one made now."""
    written = (job.get("status") or {}).get("artifacts", {}).get("report")
    if written is None:
        return agent.ask("report", run_folder(job)).body
    page = b""
    while piece := agent.ask("read", written, offset=len(page), length=PIECE).body:
        page += piece
    return page
