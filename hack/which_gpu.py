"""Writes the tables of docs/gpus.md: what each method does on each GPU, by the memory model.

With --check nothing is written; 1 if the page says something else than the memory model does today.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import table_in_page

from phitune_cli.estimate_cmd import on_gpus, resolved_for
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.blocked import BlockedError
from phitune_operator.defaults import Resolved
from phitune_operator.suitable import what_would_fit
from phitune_operator.validate import read_job
from phitune_trainer.memory import GPUS, Gpu, gib

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gpus.md"

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full, vision frozen": {"method": "full", "freezeVision": True},
    "LoRA": {"method": "lora"},
    "QLoRA": {"method": "qlora"},
}
NUM_GPUS = (1, 8)
"""Of one node."""


def main(arguments: list[str], page: Path = PAGE) -> int:
    """Write the tables, or with --check compare them."""
    return table_in_page.main(
        arguments, command="hack/which_gpu.py", description=__doc__, page=page, table=tables
    )


def tables() -> Iterator[str]:
    """The lines of all tables, each below the title of its method."""
    for number, (title, spec) in enumerate(METHODS.items()):
        if number:
            yield ""
        yield f"### {title}"
        yield ""
        yield f"| GPU | GiB | computes in | {' | '.join(_gpus(count) for count in NUM_GPUS)} |"
        yield f"| --- | --- | --- | {' | '.join('---' for _ in NUM_GPUS)} |"
        for gpu in GPUS.values():
            yield f"| {' | '.join(cells(spec, gpu))} |"


def cells(spec: dict[str, Any], gpu: Gpu) -> Iterator[str]:
    """A GPU, what it computes in, and what becomes of a job of DocVQA on one and on several of it."""
    assert gpu.memory is not None, "the memory of a GPU that is known by name is known"
    yield gpu.name
    yield gib(gpu.memory)
    outcomes = [_outcome(on_gpus(job_of(spec), 1, count), gpu) for count in NUM_GPUS]
    yield next((_computes(one) for one in outcomes if isinstance(one, Resolved)), "-")
    yield from (_in_words(one, gpu) for one in outcomes)


def job_of(spec: dict[str, Any]) -> FineTuneJob:
    """The recipe's job for DocVQA, with everything else as the operator fills it in."""
    return read_job(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "docvqa"},
            "spec": {"task": "docvqa", "storage": {"size": "300Gi"}, **spec},
        }
    )


def _outcome(job: FineTuneJob, gpu: Gpu) -> Resolved | BlockedError:
    try:
        return resolved_for(job, gpu)
    except BlockedError as error:
        return error


def _computes(resolved: Resolved) -> str:
    return f"{resolved.train.training.precision}, {resolved.train.training.attention}"


def _in_words(outcome: Resolved | BlockedError, gpu: Gpu) -> str:
    if isinstance(outcome, BlockedError):
        assert outcome.reason == "UnsuitableGPU", outcome.message
        return "no: below compute capability 7.5; LoRA"
    choice, training = outcome.memory, outcome.train.training
    assert choice is not None, "it has an estimate where the memory is known"
    if not choice.fits:
        changes = (
            f"`{one.change}`" if ":" in one.change else one.change
            for one in what_would_fit(outcome.train, choice, gpu)
        )
        return f"no, at least {gib(choice.estimate.total)} GiB; with {' or '.join(changes)}"
    activations = "recomputed" if training.gradient_checkpointing else "kept"
    host = ", optimizer on the host" if training.offload_optimizer else ""
    return f"{training.micro_batch_size} a pass, {activations}{host}, {gib(choice.estimate.total)} GiB"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs of a node"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
