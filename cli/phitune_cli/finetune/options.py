"""Options that all commands of the plugin share, named as kubectl names them."""

import argparse

from phitune_cli.finetune.connection import Cluster, Target


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `connect` reads."""
    group = parser.add_argument_group("which cluster (default: as kubectl)")
    group.add_argument("-n", "--namespace", metavar="NAME", help="namespace (default: that of the context)")
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
