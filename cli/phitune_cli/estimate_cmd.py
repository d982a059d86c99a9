"""`phitune estimate`: how much GPU memory a FineTuneJob takes, what is chosen by that, and what would fit."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import ValidationError

from phitune_cli.arguments import HelpFormatter, add_form_option
from phitune_cli.one_job import read_one_job
from phitune_cli.saying import note, say
from phitune_operator.api import FineTuneJob
from phitune_operator.blocked import BlockedError
from phitune_operator.defaults import Resolved, resolve
from phitune_operator.suitable import what_would_fit
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.exit_codes import DONE, USER_ERROR
from phitune_trainer.memory import GPUS, Choice, Gpu, content_of, gib, gpus_named
from phitune_trainer.problems import problems_of

_PARTS: Final = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "text": "activations of the text layers",
    "vision": "activations of CLIP and projector",
    "logits": "logits",
    "work": "the layer being computed",
    "buffers": "gradients being sent",
    "fragmentation": "fragmentation",
    "context": "CUDA, NCCL",
}
"""Fields of Estimate in words."""

_EPILOG: Final = f"""\
examples:
  phitune estimate job.yaml                      on every GPU that is known
  phitune estimate job.yaml --gpu A100-80GB      by part, or what would fit
  phitune estimate job.yaml --gpu T4 --gpu L4 --gpus 2
  phitune estimate job.yaml --gpu V100-32GB --nodes 2 --gpus 8

GPUs: {", ".join(GPUS)};
labels such as NVIDIA-A100-SXM4-80GB are understood too, and V100 shows both sizes of its memory.

The numbers are for the largest sample to expect. They are an estimate: docs/memory.md has the formula, and
what it was checked against.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `estimate` and its options."""
    parser = subparsers.add_parser(
        "estimate",
        help="how much GPU memory will it take, and what fits?",
        description="Estimate the GPU memory that a FineTuneJob takes, and show what is chosen by it: "
        "precision, attention, samples of a pass, recomputation. No GPU and no cluster is needed.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the FineTuneJob, YAML or JSON; - for standard input")
    parser.add_argument(
        "--gpu", action="append", metavar="NAME", help="a GPU, several times for several (default: all known)"
    )
    parser.add_argument("--nodes", type=_count, metavar="N", help="instead of spec.resources.nodes")
    parser.add_argument(
        "--gpus", type=_count, metavar="N", help="of each node, instead of spec.resources.gpusPerNode"
    )
    add_form_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print the estimate; 0 also where nothing fits, 2 where what was given is wrong or no such GPU can."""
    try:
        job = on_gpus(read_one_job(args.file), args.nodes, args.gpus)
        gpus = [gpu for name in args.gpu or GPUS for gpu in known_gpus(name)]
        estimates, unsuitable = _estimates(job, gpus)
    except UserError as error:
        note(str(error))
        return USER_ERROR
    if args.form == "json":
        print(json.dumps([_as_json(gpu, resolved) for gpu, resolved in estimates], indent=1))
    elif estimates:
        say("\n".join(_heading(job, estimates[0][1].train)))
        for lines in [_details(*one) for one in estimates] if args.gpu else [_table(estimates)]:
            say("\n".join(["", *lines]))
    if unsuitable:
        note("\n".join(unsuitable))
    return USER_ERROR if unsuitable and args.gpu else DONE


def _estimates(job: FineTuneJob, gpus: Sequence[Gpu]) -> tuple[list[tuple[Gpu, Resolved]], list[str]]:
    """What the job becomes on each GPU that can do it, and why the others cannot."""
    estimates, unsuitable = list[tuple[Gpu, Resolved]](), list[str]()
    for gpu in gpus:
        try:
            estimates.append((gpu, resolved_for(job, gpu)))
        except BlockedError as error:
            unsuitable.append(f"{gpu.name}: {error.message}")
    return estimates, unsuitable


def on_gpus(job: FineTuneJob, nodes: int | None, gpus: int | None) -> FineTuneJob:
    """The job on so many GPUs; one a node where it asks for none."""
    resources = job.spec.resources
    changed = resources.model_copy(
        update={
            "nodes": nodes or resources.nodes,
            "gpus_per_node": gpus or resources.gpus_per_node or 1,
            "processes_per_node": None,
        }
    )
    return job.model_copy(update={"spec": job.spec.model_copy(update={"resources": changed})})


def known_gpus(name: str) -> list[Gpu]:
    """The GPUs that a name means. UserError lists those that are known."""
    gpus = gpus_named(name)
    if not gpus:
        raise UserError(f"--gpu {name}: not known by name; use one of {', '.join(GPUS)}")
    return gpus


def resolved_for(job: FineTuneJob, gpu: Gpu) -> Resolved:
    """What the job becomes on that GPU. UserError where its batch does not divide over the GPUs.

    Raises BlockedError where the GPU cannot do what is asked.
    """
    try:
        return resolve(job, namespace="default", uid="estimate", gpu=gpu)
    except ValidationError as error:
        resources = job.spec.resources
        where = f"on {resources.nodes} x {resources.gpus_per_node} GPUs"
        raise UserError("\n".join(f"{where}: {problem}" for problem in problems_of(error))) from error


def _heading(job: FineTuneJob, train: TrainConfig) -> Iterator[str]:
    world, content = train.world, content_of(train)
    method = f"{train.method}, vision frozen" if train.freeze_vision else train.method
    if train.lora is not None:
        method += f" of rank {train.lora.rank}" + (", on the vision part too" if train.lora.vision else "")
    yield (
        f"{job.metadata.name}: {train.task}, method {method}; {world.nodes} x {world.processes_per_node} "
        f"GPUs, global batch {train.training.global_batch_size}"
    )
    size = "tiny" if train.model.init == "tiny" else "that of Phi-3.5-vision"
    yield (
        f"model size: {size}; largest sample expected: {content.tokens} tokens, {content.crops} crops"
        + (f", {content.branches} questions about one page" if content.branches else "")
    )


def _details(gpu: Gpu, resolved: Resolved) -> Iterator[str]:
    choice = _choice(resolved)
    needs = f"about {gib(choice.estimate.total)} of {gib(choice.memory)} GiB"
    yield f"{gpu.name}: {'fits' if choice.fits else 'does not fit'}, {needs}"
    for remark in resolved.notes:
        yield f"  {remark}"
    yield f"  {'GiB':>40}"
    for part, words in _PARTS.items():
        if size := getattr(choice.estimate, part):
            yield f"  {words:34}{size / 2**30:6.2f}"
    yield f"  {'total':34}{choice.estimate.total / 2**30:6.2f}"
    if not choice.fits:
        yield from _what_would_fit(resolved.train, choice, gpu)


def _what_would_fit(train: TrainConfig, choice: Choice, gpu: Gpu) -> Iterator[str]:
    found = what_would_fit(train, choice, gpu)
    if not found:
        yield "  none of these lets it fit alone: more GPUs, fewer crops, freezeVision, lora, qlora"
        return
    yield "  would fit, with one change:"
    for remedy in found:
        yield f"    {remedy.change:40} about {gib(remedy.estimate.total)} GiB"


def _as_json(gpu: Gpu, resolved: Resolved) -> dict[str, Any]:
    """What the job becomes on a GPU, and the memory that it takes there, in bytes."""
    choice, training = _choice(resolved), resolved.train.training
    return {
        "gpu": gpu.name,
        "fits": choice.fits,
        "memoryBytes": choice.memory,
        "neededBytes": choice.estimate.total,
        "parts": {part: getattr(choice.estimate, part) for part in _PARTS},
        "precision": training.precision,
        "attention": training.attention,
        "microBatchSize": training.micro_batch_size,
        "gradientCheckpointing": training.gradient_checkpointing,
        "offloadOptimizer": training.offload_optimizer,
        "notes": list(resolved.notes),
    }


def _table(estimates: Sequence[tuple[Gpu, Resolved]]) -> Iterator[str]:
    yield (
        f"{'GPU':12}{'GiB':>5}  {'needs':>5}  {'':6}{'precision':11}{'attention':11}{'a pass':8}"
        f"{'activations':13}optimizer"
    )
    for gpu, resolved in estimates:
        choice = _choice(resolved)
        training = resolved.train.training
        yield (
            f"{gpu.name:12}{gib(choice.memory):>5}  {gib(choice.estimate.total):>5}  "
            f"{'' if choice.fits else 'no':6}{training.precision:11}{training.attention:11}"
            f"{training.micro_batch_size:<8}"
            f"{'recomputed' if training.gradient_checkpointing else 'kept':13}"
            f"{'on the host' if training.offload_optimizer else 'on the GPU'}"
        )
    if any(not _choice(resolved).fits for _, resolved in estimates):
        yield "no: does not fit; --gpu NAME says what would"


def _choice(resolved: Resolved) -> Choice:
    assert resolved.memory is not None, "the memory of a GPU that is known by name is known"
    return resolved.memory


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, got {text}")
    return int(text)
