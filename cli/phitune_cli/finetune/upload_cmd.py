"""`kubectl finetune upload`: pictures and jsonl from this machine onto a claim."""

import argparse
import json
import sys
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Final

from phitune_cli.arguments import HelpFormatter
from phitune_cli.finetune.agent import connected
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.helper_pod import CONTAINER, helper_pod
from phitune_cli.finetune.options import (
    add_helper_options,
    add_output_option,
    add_target_options,
    connect,
    object_name,
)
from phitune_cli.finetune.problems import WrongInput, problem_of_file
from phitune_cli.finetune.transfer_line import counting, go_on_when_cut_off
from phitune_cli.finetune.upload import LocalFile, Sent, local_files, upload
from phitune_cli.finetune.volumes import trainer_image
from phitune_cli.saying import note
from phitune_operator.kinds import CLAIM
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.plain_text import inert
from phitune_trainer.transfer import size

_EPILOG: Final = """\
examples:
  kubectl finetune upload receipts/ --claim receipts --create 200Gi
  kubectl finetune upload receipts/ --claim receipts    sends what has changed
  kubectl finetune upload page.png --claim receipts --to receipts/images

SOURCE is a folder (with train.jsonl, eval.jsonl and images/, say) or a file.
Check it first, without a cluster: phitune data check receipts/train.jsonl

A helper pod opens the claim, and is removed at the end. Each file has its name
on the volume only once its hash is that of the file here. Ctrl-C (exit code 75)
leaves what has arrived: the same command goes on. Files that are on the volume
and not here stay.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `upload` and its options."""
    parser = subparsers.add_parser(
        "upload",
        help="copy pictures and jsonl onto a claim",
        description="Copy a folder or a file onto the volume of a claim, checked by hash.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder or file to copy")
    parser.add_argument(
        "--claim",
        type=object_name,
        required=True,
        metavar="NAME",
        help="PersistentVolumeClaim of the namespace",
    )
    parser.add_argument(
        "--to",
        type=_folder,
        metavar="PATH",
        help="folder on the volume (default: the name of SOURCE's folder)",
    )
    parser.add_argument("--create", metavar="SIZE", help="make the claim, of this size, if it is not there")
    parser.add_argument(
        "--storage-class", metavar="NAME", help="of the claim to make (default: the cluster's)"
    )
    parser.add_argument(
        "--access-mode",
        choices=["ReadWriteMany", "ReadWriteOnce"],
        default="ReadWriteMany",
        help="of the claim to make (default: %(default)s; ReadWriteOnce serves jobs of one node)",
    )
    add_helper_options(parser, default="that of the newest job, else the operator's")
    add_output_option(parser)
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Copy; 0, 2 where something named is wrong, 75 when stopped."""
    files = local_files(args.source)
    folder = args.to or args.source.resolve().name
    if args.source.is_file() and args.to is None:
        folder = args.source.resolve().parent.name
    cluster = connect(args)
    provide_claim(cluster, args)
    image = args.image or trainer_image(cluster)

    def send() -> Sent:
        pod = helper_pod(cluster, args.claim, image, pull_secrets=args.image_pull_secret, say=note)
        with (
            pod as name,
            connected(cluster, name, CONTAINER) as agent,
            counting("sent", _total(files)) as count,
        ):
            return upload(agent, files, folder, count)

    try:
        sent = go_on_when_cut_off(send)
    except OSError as error:
        raise problem_of_file(error) from error
    except KeyboardInterrupt:
        note("stopped; what has arrived stays, and the same command goes on")
        return INTERRUPTED
    result = {
        "claim": args.claim,
        "path": folder,
        "files": sent.num_files,
        "filesKept": sent.num_kept,
        "bytesSent": sent.num_bytes,
    }
    if args.output == "json":
        print(json.dumps(result))
        return DONE
    print(
        inert(
            f"{folder} on claim {args.claim}: {sent.num_files:,} files, {sent.num_kept:,} of them there "
            f"already; {size(sent.num_bytes)} sent, all hashes agree"
        )
    )
    names = {file.name for file in files}
    if "train.jsonl" in names:
        print(inert(what_next(folder, args.claim, cluster.namespace, is_scored="eval.jsonl" in names)))
    return DONE


def what_next(folder: str, claim: str, namespace: str, *, is_scored: bool) -> str:
    """The command that trains on what is on the volume now; `is_scored`: there are held-out samples."""
    scored = " --set data.eval=eval.jsonl" if is_scored else ""
    return (
        f"next: kubectl finetune submit NAME -n {namespace} --task jsonl --method lora \\\n"
        "    --epochs 3 --learning-rate 2e-4 \\\n"
        f"    --data {quote(folder)} --claim {claim}{scored}"
    )


def provide_claim(cluster: Cluster, args: argparse.Namespace) -> None:
    """Make the claim if it is not there, and that is asked for. WrongInput otherwise."""
    if cluster.get(CLAIM, args.claim) is not None:
        return
    if args.create is None:
        raise WrongInput(
            f"no claim {args.claim} in namespace {cluster.namespace}; --create SIZE makes it, such as "
            "--create 200Gi"
        )
    spec = {"accessModes": [args.access_mode], "resources": {"requests": {"storage": args.create}}}
    if args.storage_class is not None:
        spec["storageClassName"] = args.storage_class
    cluster.create(
        CLAIM,
        {
            "apiVersion": CLAIM.api_version,
            "kind": CLAIM.kind,
            "metadata": {"name": args.claim},
            "spec": spec,
        },
    )
    print(f"claim {args.claim} is made, {args.create}, {args.access_mode}", file=sys.stderr)


def _total(files: list[LocalFile]) -> int:
    return sum(file.size for file in files)


def _folder(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise argparse.ArgumentTypeError(
            f"must be a path below the volume's root, such as receipts, got {text!r}"
        )
    return path.as_posix()
