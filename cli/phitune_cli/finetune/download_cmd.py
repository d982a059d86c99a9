"""`kubectl finetune download`: a job's export from its volume."""

import argparse
import json
from pathlib import Path
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.download import Fetched, download, list_folder
from phitune_cli.finetune.options import (
    add_helper_options,
    add_job_argument,
    add_output_option,
    add_target_options,
    connect,
)
from phitune_cli.finetune.problems import WrongInput, problem_of_file
from phitune_cli.finetune.transfer_line import counting, go_on_when_cut_off
from phitune_cli.finetune.volumes import beside_volume_of
from phitune_cli.saying import note
from phitune_operator.kinds import Object
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.plain_text import inert
from phitune_trainer.transfer import size

_EPILOG: Final = """\
examples:
  kubectl finetune download receipts --to receipts-model
  kubectl finetune download receipts --adapter --to adapter
  phitune predict --model receipts-model --image page.png \\
      --prompt "What is the total?"

Each file has its name here only once its hash is that of the volume's. Ctrl-C
(exit code 75) leaves what has arrived: the same command goes on. Where no pod
of the job runs, a helper pod opens its claim.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `download` and its options."""
    parser = subparsers.add_parser(
        "download",
        help="copy a job's export here",
        description="Copy what a job has exported to this machine, checked by hash.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    add_job_argument(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--merged", action="store_const", const="merged", dest="kind", help="the whole weights"
    )
    kinds.add_argument("--adapter", action="store_const", const="adapter", dest="kind", help="the adapter")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder to write (default: NAME-merged, NAME-adapter)"
    )
    parser.add_argument("--force", action="store_true", help="replace other files of the same names there")
    add_helper_options(parser, default="the job's")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Copy; 0, 2 where there is no such export, 75 when stopped."""
    cluster = connect(args)
    job = cluster.job(args.name)
    kind, folder = export_of(job, args.kind)
    out = args.to or Path(f"{args.name}-{kind}")

    def fetch() -> Fetched:
        with beside_volume_of(
            cluster, job, image=args.image, pull_secrets=args.image_pull_secret, say=note
        ) as agent:
            files = list_folder(agent, folder)
            if not files:
                raise WrongInput(f"{folder} of the job's volume is empty or gone")
            with counting("fetched", sum(file.size for file in files)) as count:
                return download(agent, folder, files, out, count, force=args.force)

    try:
        fetched = go_on_when_cut_off(fetch)
    except KeyboardInterrupt:
        note(f"stopped; what has arrived stays in {out}, and the same command goes on")
        return INTERRUPTED
    except OSError as error:
        raise problem_of_file(error) from error
    if args.output == "json":
        result = {
            "path": str(out),
            "kind": kind,
            "files": fetched.num_files,
            "filesKept": fetched.num_kept,
            "bytesFetched": fetched.num_bytes,
        }
        print(json.dumps(result))
    else:
        print(
            inert(
                f"{out}: {fetched.num_files:,} files, {fetched.num_kept:,} of them here already; "
                f"{size(fetched.num_bytes)} fetched, all hashes agree"
            )
        )
        print(inert(f'next: phitune predict --model {out} --image FILE --prompt "..."'))
    return DONE


def export_of(job: Object, wanted: str | None) -> tuple[str, str]:
    """Kind and folder of the export that is meant: the one asked for, else whole weights before adapters."""
    status = job.get("status") or {}
    artifacts = status.get("artifacts") or {}
    there = [kind for kind in ("merged", "adapter") if artifacts.get(kind)]
    kind = wanted or (there[0] if there else "export")
    if kind not in there:
        phase = status.get("phase", "Pending")
        has = f"it has: {', '.join(there)}" if there else "it has exported nothing yet"
        raise WrongInput(f"job {job['metadata']['name']} ({phase}) has no {kind}; {has}")
    return kind, str(artifacts[kind])
