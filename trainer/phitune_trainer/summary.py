"""The start-up summary: what this run will do, with what, and why, before it does it."""

import os
import platform
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from phitune_trainer.checkpoint.start import Start
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import describe_data
from phitune_trainer.engine.world import World
from phitune_trainer.evaluate.evaluation import HeldOut
from phitune_trainer.logs import say
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method
from phitune_trainer.model.varlen import find_varlen
from phitune_trainer.out_of_memory import Fitted
from phitune_trainer.plain_text import counted
from phitune_trainer.run_layout import IncarnationFolder, write_atomically
from phitune_trainer.schedule import schedule_in_words
from phitune_trainer.score_words import first_weights
from phitune_trainer.strict_json import to_json
from phitune_trainer.termination import attempt

_PACKAGES: Final = ("torch", "transformers", "peft", "deepspeed", "bitsandbytes")
"""Those whose version may change what comes out."""
_COLUMNS: Final = 160
"""Of the summary, unless PHITUNE_COLUMNS says that there is a terminal with fewer."""
_FEWEST_COLUMNS: Final = 40


def summary(
    run: Run,
    method: Method,
    start: Start,
    fitted: Fitted,
    *,
    samples: TrainingSamples,
    held_out: HeldOut | None,
) -> dict[str, str]:
    """What was chosen, a sentence each, by what it is about."""
    config, training, world = run.config, run.config.training, run.world
    trained = sum(parameter.numel() for parameter in run.engine.parameters.values())
    total = sum(parameter.numel() for parameter in method.model.parameters())
    passes = config.accumulation_steps
    return {
        "model": f"{config.model_dir}, {millions(total)} parameters, {millions(trained)} of them trained",
        "method": f"{config.method}: {method.summary}",
        "engine": run.engine.summary,
        "ranks": f"{world.size} on {world.device.type}: {counted(config.world.nodes, 'node')} x "
        + counted(config.world.processes_per_node, "process", "processes"),
        "precision": f"{training.precision}, attention {_attention(training.attention)}, activations "
        + _activations(fitted),
        "data": describe_data(config, samples, held_out.num_samples if held_out else 0),
        "scores": _scores(run, held_out),
        "loading": "; ".join([run.batches.summary, *([run.pictures.summary] if run.pictures else [])]),
        "batch": f"{training.global_batch_size} samples a step = {counted(world.size, 'rank')} x "
        f"{counted(passes, 'pass', 'passes')} x {training.samples_per_pass}, shared out "
        + ("by what each costs" if run.is_balanced else "in turn"),
        "schedule": f"{run.total_steps} steps, "
        + schedule_in_words(
            training.schedule, training.learning_rate, training.warmup_steps, total_steps=run.total_steps
        ),
        "saves": f"{_interval(config)}, the last {config.checkpoint.keep} kept, "
        f"in {start.folder.checkpoints}",
        "start": _origin(start),
        "software": _software(world),
    }


def summary_lines(config: TrainConfig, folder: IncarnationFolder, rows: Mapping[str, str]) -> str:
    """The summary as the log has it."""
    title = f"phitune: {config.run.namespace}/{config.run.name}"
    return "\n".join([f"{title}, attempt {attempt()}, incarnation {folder.number}", *_aligned(rows)])


def keep_summary(folder: IncarnationFolder, rows: Mapping[str, str], total_steps: int) -> None:
    """Put the summary beside the numbers of the steps, for the report."""
    kept = {"version": 1, "totalSteps": total_steps, "rows": rows}
    try:
        write_atomically(folder.summary, to_json(kept, indent=1))
    except OSError as error:
        say(f"warning: no {folder.summary}: {error.strerror}; training goes on")


def millions(count: int) -> str:
    """A number of parameters as people say it: 1.3 M, 4.15 B."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _attention(name: str) -> str:
    """The kind of attention, and where there are several of a kind, which one."""
    return f"{name} ({find_varlen().about})" if name == "flash" else name


def _activations(fitted: Fitted) -> str:
    """What becomes of the activations, and why."""
    if fitted.recomputes:
        return "recomputed: an earlier start ran out of memory"
    return "recomputed to save memory" if fitted.config.training.gradient_checkpointing else "kept"


def _scores(run: Run, held_out: HeldOut | None) -> str:
    """When the held-out samples are scored, by what, and what is known of the weights before it."""
    if held_out is None or run.evaluator is None:
        return "none"
    asked, before = run.config.evaluation, run.evaluator.baseline
    times = ["before training"] if asked.baseline and before is None else []
    times += [f"every {asked.every_steps} steps"] if asked.every_steps is not None else []
    known = "" if before is None else f"; {first_weights(run.config.resume_from)} scored {before:.4f}"
    return f"{held_out.metric} with its 95% interval, {', '.join([*times, 'at the end'])}{known}"


def _interval(config: TrainConfig) -> str:
    if config.checkpoint.every_steps is not None:
        return f"every {config.checkpoint.every_steps} steps"
    return f"every {config.checkpoint.every_minutes:g} minutes"


def _origin(start: Start) -> str:
    damaged = "".join(f"damaged and not used: {problem}; " for problem in start.passed_over)
    if start.source is not None:
        return f"{damaged}step 0, with the weights of step {start.source.step} in {start.source.folder}"
    if start.origin is None:
        return f"{damaged}from the base model, step 0"
    return (
        f"{damaged}continues from step {start.origin.step}, saved by incarnation {start.origin.incarnation}"
    )


def _software(world: World) -> str:
    """What computes, and its versions."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    if world.device.type == "cuda":
        found += [f"CUDA {torch.version.cuda}", torch.cuda.get_device_name(world.device)]
    return ", ".join(found)


def _aligned(rows: Mapping[str, str]) -> Iterator[str]:
    width = max(len(name) for name in rows) + 2
    columns = min(_COLUMNS, max(_FEWEST_COLUMNS, int(os.environ.get("PHITUNE_COLUMNS", _COLUMNS))))
    for name, text in rows.items():
        yield textwrap.fill(
            text,
            columns,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
        )
