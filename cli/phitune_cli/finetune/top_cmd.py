"""`kubectl finetune top`: how fast the jobs that run are, and in how much memory."""

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.agent import connected
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.options import add_job_argument, add_output_option, add_target_options, connect
from phitune_cli.finetune.problems import NotAllowed, Problem
from phitune_cli.finetune.status_screen import cut, in_columns
from phitune_cli.finetune.volumes import running_pod
from phitune_cli.saying import note
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
    add_job_argument(parser, default="all that run")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Show them; 0, 2 where there is no such job, or the code of what keeps every job from telling."""
    cluster = connect(args)
    jobs = [cluster.job(args.name)] if args.name else cluster.list(FINETUNEJOB)
    heard, last_problem = dict[str, dict[str, Any]](), None
    for job in jobs:
        name = job["metadata"]["name"]
        try:
            if (told := _ask(cluster, job)) is not None:
                heard[name] = told
        except NotAllowed:
            raise
        except Problem as problem:
            note(f"{name}: {problem}")
            last_problem = problem
    if last_problem is not None and not heard:
        return last_problem.exit_code
    if args.output == "json":
        print(json.dumps([{"job": name, **told} for name, told in heard.items()], indent=2))
    elif heard:
        print(table(heard))
    else:
        note(f"no job trains in namespace {cluster.namespace}")
    return DONE


def _ask(cluster: Cluster, job: Object) -> dict[str, Any] | None:
    """What rank 0 says of itself; None where it does not run."""
    pod = running_pod(cluster, job)
    if pod is None or not names.is_rank_zero(pod["metadata"]["labels"]):
        return None
    with connected(cluster, pod["metadata"]["name"], names.TRAINER_CONTAINER) as agent:
        told: dict[str, Any] = json.loads(agent.ask("progress", "").body)
        return told


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
    return "\n".join(cut(inert(line)) for line in in_columns(rows))


def _number(told: Mapping[str, Any], field: str, pattern: str, unit: float = 1) -> str:
    value = told.get(field)
    return pattern.format(value / unit) if isinstance(value, int | float) else "-"
