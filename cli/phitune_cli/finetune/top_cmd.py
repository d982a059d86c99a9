"""`kubectl finetune top`: how fast the jobs that run are, and in how much memory."""

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.agent import connected
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.options import add_output_option, add_target_options, connect
from phitune_cli.finetune.problems import Problem
from phitune_cli.finetune.status_screen import in_columns
from phitune_cli.finetune.transfer_line import note
from phitune_cli.finetune.volumes import running_pod
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, Object
from phitune_trainer.exit_codes import DONE
from phitune_trainer.plain_text import inert

_EPILOG: Final = """\
examples:
  kubectl finetune top
  kubectl finetune top -n team-a -o json

Rank 0 of each job is asked, in its pod. MEMORY is the most that it has held, of
its GPU; without a GPU, of its process. MFU is the share of the GPUs' peak that
the model's arithmetic uses. DATA is the share of the time in which rank 0 waits
for samples: more than a few percent asks for more CPUs or a faster volume.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `top` and its options."""
    parser = subparsers.add_parser(
        "top",
        help="speed and memory of the jobs that run",
        description="Show speed, memory and waiting of the jobs that run, as they say themselves.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the job (default: all that run)")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Show them; 0, or 2 where there is no such job."""
    cluster = connect(args)
    jobs = [cluster.job(args.name)] if args.name else cluster.list(FINETUNEJOB)
    heard = {job["metadata"]["name"]: told for job in jobs if (told := _ask(cluster, job)) is not None}
    if args.output == "json":
        print(json.dumps([{"job": name, **told} for name, told in heard.items()], indent=2))
    elif heard:
        print(table(heard))
    else:
        note(f"no job trains in namespace {cluster.namespace}")
    return DONE


def _ask(cluster: Cluster, job: Object) -> dict[str, Any] | None:
    """What rank 0 says of itself; None where it does not run, or does not say."""
    pod = running_pod(cluster, job)
    if pod is None or not names.is_rank_zero(pod["metadata"]["labels"]):
        return None
    try:
        with connected(cluster, pod["metadata"]["name"], names.TRAINER_CONTAINER) as agent:
            told: dict[str, Any] = json.loads(agent.ask("progress", "").body)
            return told
    except Problem as problem:
        note(f"{job['metadata']['name']}: {problem}")
        return None


def table(heard: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a job; what is not known is a dash. Pure."""
    rows = [("JOB", "STATE", "STEP", "IMAGES/S", "TOKENS/S", "MFU", "MEMORY", "DATA")]
    for name, told in heard.items():
        numbers = (
            _number(told, "imagesPerSecond", "{:.1f}"),
            _number(told, "tokensPerSecond", "{:,.0f}"),
            _number(told, "mfu", "{:.0%}"),
            _number(told, "memoryBytes", "{:.1f} GiB", 2**30),
            _number(told, "dataWait", "{:.1%}"),
        )
        step = f"{told.get('step')}/{told.get('totalSteps')}"
        rows.append((name, str(told.get("state")), step, *numbers))
    return "\n".join(inert(line) for line in in_columns(rows))


def _number(told: Mapping[str, Any], field: str, pattern: str, unit: float = 1) -> str:
    value = told.get(field)
    return pattern.format(value / unit) if isinstance(value, int | float) else "-"
