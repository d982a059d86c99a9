"""`kubectl finetune submit`: a FineTuneJob from options, checked here before the cluster sees it."""

import argparse
import json
from typing import Any, Final, get_args

from phitune_cli.arguments import HelpFormatter, positive
from phitune_cli.finetune.options import add_target_options, connect
from phitune_cli.finetune.problems import WrongInput
from phitune_cli.saying import say
from phitune_cli.yaml_text import to_yaml
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, Object
from phitune_operator.validate import InvalidJobError, read_job
from phitune_trainer.config import Method, Task
from phitune_trainer.exit_codes import DONE
from phitune_trainer.yaml_reader import YamlError, read_document

_EPILOG: Final = """\
examples:
  kubectl finetune submit docvqa --task docvqa --method lora \\
      --nodes 2 --gpus 8 --size 200Gi
  kubectl finetune submit receipts --task jsonl --data receipts \\
      --claim receipts --method qlora --epochs 3 --learning-rate 2e-4 \\
      --set data.eval=eval.jsonl
  kubectl finetune submit try --task jsonl --set data.generate=digits \\
      --set model.init=tiny --method full --gpus 0 --size 1Gi
  kubectl finetune submit docvqa --task docvqa --method lora --size 200Gi \\
      --dry-run > job.yaml

--set reaches every field of the spec (docs/reference/finetunejob.md), such as
--set training.numCrops=4; values are read as YAML. --dry-run prints the
manifest and asks nothing of a cluster.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `submit` and its options."""
    parser = subparsers.add_parser(
        "submit",
        help="make a FineTuneJob from options",
        description="Make a FineTuneJob. What is wrong with it is said before the cluster sees it.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the job")
    parser.add_argument("--task", choices=get_args(Task), required=True, help="jsonl: own data")
    parser.add_argument("--method", choices=get_args(Method), required=True, help="what is trained")
    parser.add_argument(
        "--data", metavar="PATH", help="folder of the data on the volume (default: from the hub)"
    )
    parser.add_argument(
        "--model", metavar="ID", help="base model on the hub (default: Phi-3.5-vision-instruct)"
    )
    parser.add_argument("--model-path", metavar="PATH", help="base model on the volume, instead")
    parser.add_argument("--nodes", type=positive, metavar="N", help="pods that train together (default: 1)")
    parser.add_argument("--gpus", type=_count, metavar="N", help="GPUs of each, 0 for the CPU (default: 1)")
    volume = parser.add_mutually_exclusive_group(required=True)
    volume.add_argument("--claim", metavar="NAME", help="claim that the volume is on")
    volume.add_argument("--size", metavar="SIZE", help="size of a claim to make, such as 200Gi")
    parser.add_argument(
        "--storage-class", metavar="NAME", help="of the claim to make (default: the cluster's)"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="passes over the data (default: the recipe's where it has a row, else 1)",
    )
    parser.add_argument(
        "--global-batch",
        type=positive,
        metavar="N",
        help="samples of a step (default: the recipe's where it has a row, else about 16)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="its peak (default: the recipe's where it has a row, else 4e-5)",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the spec; several times for several",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the manifest, make nothing")
    parser.add_argument(
        "-o", "--output", choices=["text", "yaml", "json"], help="default: text, yaml with --dry-run"
    )
    add_target_options(parser)


def main(args: argparse.Namespace) -> int:
    """Make the job; 0, or 2 where it cannot be."""
    job = job_of(args)
    if args.dry_run:
        if args.namespace is not None:
            job["metadata"]["namespace"] = args.namespace
        print(_text(job, args.output or "yaml"), end="")
        return DONE
    cluster = connect(args)
    made = cluster.create(FINETUNEJOB, job)
    if args.output in ("yaml", "json"):
        print(_text(made, args.output), end="")
        return DONE
    where = f"{args.name} -n {cluster.namespace}"
    say(f"FineTuneJob {args.name} is made in namespace {cluster.namespace}. What next:")
    for command, words in (
        (f"kubectl finetune status {where}", "how far it is"),
        (f"kubectl finetune logs {where} -f", "what it says"),
        (f"kubectl finetune report {where}", "curves and scores, while it runs too"),
        (f"kubectl finetune download {where} --to {args.name}-model", "the weights, at its end"),
    ):
        say(f"  {command}\n      {words}")
    return DONE


def job_of(args: argparse.Namespace) -> Object:
    """The job that the options describe. WrongInput with all that is wrong with it."""
    spec: dict[str, Any] = {}
    for path, value in (
        ("task", args.task),
        ("method", args.method),
        ("data.path", args.data),
        ("model.name", args.model),
        ("model.path", args.model_path),
        ("resources.nodes", args.nodes),
        ("resources.gpusPerNode", args.gpus),
        ("storage.claimName", args.claim),
        ("storage.size", args.size),
        ("storage.storageClassName", args.storage_class),
        ("training.epochs", args.epochs),
        ("training.globalBatchSize", args.global_batch),
        ("training.learningRate", args.learning_rate),
    ):
        if value is not None:
            _put(spec, path, value)
    for path, value in args.set:
        _put(spec, path, value)
    job = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": args.name},
        "spec": spec,
    }
    try:
        read_job(job)
    except InvalidJobError as error:
        raise WrongInput("\n".join(["the job would be refused:", *map(str, error.problems)])) from error
    return job


def _put(spec: dict[str, Any], path: str, value: Any) -> None:
    *groups, field = path.split(".")
    for name in groups:
        group = spec.setdefault(name, {})
        if not isinstance(group, dict):
            raise WrongInput(f"--set {path}: {name} has the value {group!r} and no fields")
        spec = group
    spec[field] = value


def _setting(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the field with or without `spec.` before it."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise argparse.ArgumentTypeError(f"must be FIELD=VALUE, such as training.numCrops=4, got {text!r}")
    try:
        return path.removeprefix("spec."), read_document(value)
    except YamlError as error:
        raise argparse.ArgumentTypeError(f"{path}: {value!r} is no YAML: {error}") from error


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _text(job: Object, output: str) -> str:
    if output == "json":
        return json.dumps(job, indent=2) + "\n"
    return to_yaml(job)
