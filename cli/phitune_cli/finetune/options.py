"""Options that all commands of the plugin share, named as kubectl names them."""

import argparse
import re
from typing import Final

from phitune_cli.finetune.connection import Cluster, Target

TARGET_OPTIONS: Final = ("-n", "--namespace", "--context", "--kubeconfig")
_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST: Final = 253


def object_name(text: str) -> str:
    """A name as Kubernetes has them: nothing else may become part of a URL."""
    if len(text) > _LONGEST or not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"must be a name of lower-case letters, digits, '-' and '.', got {text!r}"
        )
    return text


def namespace_name(text: str) -> str:
    """The same, or nothing: that of the context, as for kubectl."""
    return object_name(text) if text else text


def add_job_argument(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add NAME; `default` says in words what is meant without it, else it must be given."""
    parser.add_argument(
        "name",
        type=object_name,
        nargs=None if default is None else "?",
        metavar="NAME",
        help="name of the job" + ("" if default is None else f" (default: {default})"),
    )


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `connect` reads."""
    group = parser.add_argument_group("which cluster (default: as kubectl)")
    group.add_argument(
        *("-n", "--namespace"),
        type=namespace_name,
        metavar="NAME",
        help="namespace (default: that of the context)",
    )
    group.add_argument(
        "--context", metavar="NAME", help="context of the kubeconfig (default: the current one)"
    )
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig (default: $KUBECONFIG, ~/.kube/config)"
    )


def connect(args: argparse.Namespace) -> Cluster:
    """The cluster that the options name."""
    return Cluster.connect(Target(args.kubeconfig, args.context, args.namespace))


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Add `-o`; `args.output` is then text or json."""
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: text")


def add_helper_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add what a helper pod may have to be told; `default` says in words which image it has otherwise."""
    parser.add_argument(
        "--image", metavar="IMAGE", help=f"trainer image of the helper pod (default: {default})"
    )
    parser.add_argument(
        "--image-pull-secret",
        action="append",
        default=[],
        metavar="NAME",
        help="secret of the namespace that pulls it; several times for several",
    )
