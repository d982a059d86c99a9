"""Which samples `phitune evaluate` scores: those of the model's own run, or those that the options name."""

import argparse
from pathlib import Path
from typing import Any, Final, get_args

from phitune_cli.arguments import positive
from phitune_operator.defaults import resolve
from phitune_operator.validate import read_job
from phitune_trainer.config import Data, Task, TrainConfig
from phitune_trainer.errors import UserError

_BATCH: Final = 8


def add_held_out_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `held_out_config` reads."""
    group = parser.add_argument_group(
        "samples (default: the held-out ones of the run that FOLDER is part of)"
    )
    group.add_argument("--task", choices=get_args(Task), help="decides how to ask, and the score")
    group.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="task jsonl: a jsonl file, or a folder with eval.jsonl; other tasks: the folder of their files",
    )
    group.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="task jsonl: the pictures (default: images beside the file)",
    )
    group.add_argument("--split", metavar="NAME", help="which held-out split, where the task has several")
    group.add_argument("--max-samples", type=positive, metavar="N", help="only the first N samples")
    group.add_argument(
        "--num-crops",
        type=_crops,
        metavar="N",
        help="most crops of a picture, 1 to 16 (default: as in its training, where that is known, else 16, "
        "and 4 for ucf101)",
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=_BATCH,
        metavar="N",
        help=f"samples at a time (default {_BATCH})",
    )


def held_out_config(
    args: argparse.Namespace, run: TrainConfig | None, *, trained_crops: int | None
) -> TrainConfig:
    """A config whose held-out samples are the ones to score. UserError where the options name none.

    `trained_crops` are those of a picture in the training of the weights, where that is known.
    """
    if args.task is not None or args.data is not None:
        config = _named(args, run)
    elif run is not None:
        config = run
    else:
        raise UserError(
            "which samples? The model is not in the folder of a run: name them with --task and --data, "
            "such as --task jsonl --data receipts/eval.jsonl"
        )
    if args.split is not None and config.task == "jsonl":
        raise UserError(f"--split {args.split}: task jsonl has no splits; name the file with --data")
    if args.images is not None and (config.task != "jsonl" or args.data is None):
        raise UserError(f"--images {args.images}: goes with --task jsonl and --data alone")
    training: dict[str, Any] = {"micro_batch_size": args.batch_size}
    if num_crops := args.num_crops or trained_crops:
        training["num_crops"] = num_crops
    data = {"eval": args.split} if args.split is not None else {}
    evaluation = {"enabled": True, "max_samples": args.max_samples or config.evaluation.max_samples}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "training": config.training.model_copy(update=training),
            "evaluation": config.evaluation.model_copy(update=evaluation),
        }
    )


def _named(args: argparse.Namespace, run: TrainConfig | None) -> TrainConfig:
    """The config of the samples that --task and --data name; what is not named is as in the run."""
    task = args.task or (run.task if run is not None else "jsonl")
    if args.data is None:
        raise UserError(f"--task {task}: name its samples with --data")
    if not args.data.exists():
        raise UserError(f"--data {args.data}: no such file or folder")
    folder, file = (args.data, None) if args.data.is_dir() else (args.data.parent, args.data.name)
    if task != "jsonl" and file is not None:
        raise UserError(f"--data {args.data}: is a file; --task {task} needs the folder of its files")
    if task == "jsonl":
        file = file or "eval.jsonl"
    images = args.images.resolve() if args.images is not None else "images"
    # The paths are the user's own, not those of a volume: they are not held to its rules.
    data = Data(path=".").model_copy(update={"eval": file, "image_root": str(images)})
    config = _defaults(task)
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"workspace": str(folder.resolve())}),
            "data": data,
            "training": run.training if run is not None and run.task == task else config.training,
        }
    )


def _defaults(task: Task) -> TrainConfig:
    """What a job of this task would be told on a CPU."""
    job = {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "evaluate"},
        "spec": {
            "model": {"path": "."},
            "task": task,
            "data": {"path": "."},
            "method": "full",
            "training": {"globalBatchSize": 1},
            "resources": {"nodes": 1, "gpusPerNode": 0},
            "storage": {"size": "1Gi"},
        },
    }
    return resolve(read_job(job), namespace="local", uid="0001").train


def _crops(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 16:
        raise argparse.ArgumentTypeError(f"must be from 1 to 16, got {number}")
    return number
