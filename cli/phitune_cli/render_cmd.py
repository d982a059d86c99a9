"""`phitune render`: checks FineTuneJobs as the API server would, and shows what the operator would create."""

import argparse
from typing import Final

from phitune_cli.arguments import HelpFormatter

_EPILOG: Final = """\
examples:
  phitune render examples/digits.yaml
  phitune render -n team-a -o json job.yaml
  phitune render --cluster job.yaml     as the current cluster would have it
  cat job.yaml | phitune render - > /dev/null && echo fine

Manifests go to standard output, problems and notes to standard error. They are there to be looked at, not
to be applied, for their owner is a job that does not exist yet.

With --cluster, nodes, claims, secrets and the operator's settings are read, by your own rights: what you may
not read is said, and taken to be in order. Nothing is written.

exit codes:
  0 in order, 2 a job has a problem, or the operator would not start it,
  69 the cluster does not answer, 77 it does not allow what must be read
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `render` and its options."""
    parser = subparsers.add_parser(
        "render",
        help="check a FineTuneJob, show what the operator would create",
        description="Check FineTuneJobs as the API server does, and print what the operator would create for "
        "them. No cluster is needed, but with --cluster one is asked.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML or JSON, - for standard input")
    parser.add_argument("-n", "--namespace", help="namespace of jobs that name none (default: default)")
    parser.add_argument(
        "--image", "--trainer-image", metavar="IMAGE", help="trainer image of jobs that name none"
    )
    parser.add_argument(
        "--cluster", action="store_true", help="decide with the GPUs, claims and settings of a live cluster"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="with --cluster (default: as kubectl)")
    parser.add_argument("--context", metavar="NAME", help="with --cluster (default: the current one)")
    parser.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml", help="default: yaml")


def main(args: argparse.Namespace) -> int:
    """Print the manifests of every job, or every problem."""
    from phitune_cli.render_jobs import render

    return render(args)
