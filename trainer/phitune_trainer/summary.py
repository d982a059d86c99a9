"""The start-up summary: what this run will do, with what, and why, before it does it."""

import textwrap
from collections.abc import Iterator

from phitune_trainer.checkpoint.saver import Start
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import describe_data
from phitune_trainer.evaluate.evaluation import HeldOut
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method
from phitune_trainer.termination import attempt


def summary(
    run: Run, method: Method, start: Start, *, samples: TrainingSamples, held_out: HeldOut | None
) -> str:
    """Several lines for people."""
    config, training, world = run.config, run.config.training, run.world
    trained = sum(parameter.numel() for parameter in run.engine.parameters.values())
    total = sum(parameter.numel() for parameter in method.model.parameters())
    passes = config.accumulation_steps
    rows = {
        "model": f"{config.model_dir}, {millions(total)} parameters, {millions(trained)} of them trained",
        "method": f"{config.method}: {method.summary}",
        "engine": run.engine.summary,
        "ranks": f"{world.size} on {world.device.type}: {config.world.nodes} nodes x "
        f"{config.world.processes_per_node} processes",
        "precision": f"{training.precision}, attention {training.attention}, activations "
        + ("recomputed to save memory" if training.gradient_checkpointing else "kept"),
        "data": describe_data(config, samples, held_out.num_samples if held_out else 0),
        "scores": _scores(run, held_out),
        "loading": run.batches.summary,
        "batch": f"{training.global_batch_size} samples a step = {world.size} ranks x {passes} "
        f"{'pass' if passes == 1 else 'passes'} x {training.micro_batch_size}",
        "schedule": f"{run.total_steps} steps, {training.schedule}, peak {training.learning_rate:g} "
        f"after {training.warmup_steps} warm-up steps",
        "saves": f"{_interval(config)}, the last {config.checkpoint.keep} kept, "
        f"in {start.folder.checkpoints}",
        "start": _origin(start),
    }
    title = f"phitune: {config.run.namespace}/{config.run.name}"
    return "\n".join([f"{title}, attempt {attempt()}, incarnation {start.folder.number}", *_aligned(rows)])


def millions(count: int) -> str:
    """A number of parameters as people say it: 1.3 M, 4.15 B."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _scores(run: Run, held_out: HeldOut | None) -> str:
    """When the held-out samples are scored, by what, and what is known of the base model."""
    if held_out is None or run.evaluator is None:
        return "none"
    asked, before = run.config.evaluation, run.evaluator.baseline
    times = ["before training"] if asked.baseline and before is None else []
    times += [f"every {asked.every_steps} steps"] if asked.every_steps is not None else []
    known = "" if before is None else f"; the base model has {before:.4f}"
    return f"{held_out.metric} with its 95% interval, {', '.join([*times, 'at the end'])}{known}"


def _interval(config: TrainConfig) -> str:
    if config.checkpoint.every_steps is not None:
        return f"every {config.checkpoint.every_steps} steps"
    return f"every {config.checkpoint.every_minutes:g} minutes"


def _origin(start: Start) -> str:
    damaged = "".join(f"damaged and not used: {problem}; " for problem in start.passed_over)
    if start.origin is None:
        return f"{damaged}from the base model, step 0"
    return (
        f"{damaged}continues from step {start.origin.step}, saved by incarnation {start.origin.incarnation}"
    )


def _aligned(rows: dict[str, str]) -> Iterator[str]:
    width = max(len(name) for name in rows) + 2
    for name, text in rows.items():
        yield textwrap.fill(
            text,
            160,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
        )
