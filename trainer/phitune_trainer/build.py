"""Putting a run together from its config: model, method, engine, data, and everything that watches them."""

import math
from functools import partial

import torch

from phitune_trainer.batches import BatchesAhead
from phitune_trainer.checkpoint.saver import Saver, Start
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import Processor, collate
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import open_task
from phitune_trainer.data.sampler import split, step_indices
from phitune_trainer.data.workers import Loader
from phitune_trainer.engine import Engine
from phitune_trainer.engine.data_parallel import DataParallel
from phitune_trainer.engine.world import World
from phitune_trainer.engine.zero2 import Zero2
from phitune_trainer.errors import UserError
from phitune_trainer.evaluate.evaluation import HeldOut, hold_out
from phitune_trainer.evaluate.evaluator import Evaluator
from phitune_trainer.logs import StepLog
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method, prepare_method
from phitune_trainer.model import load_model
from phitune_trainer.model.flash import why_not
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_data
from phitune_trainer.stop import StopRequest

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_method(config: TrainConfig, world: World) -> Method:
    """The base model on this rank's device, its trained parameters chosen.

    Raises UserError where the attention that is asked for cannot run there.
    """
    training = config.training
    if training.attention == "flash" and (reason := why_not(world.device, DTYPES[training.precision])):
        raise UserError(f"training.attention: flash cannot run here, {reason}; use auto or sdpa")
    model = load_model(config.model_dir, dtype=DTYPES[training.precision], attention=training.attention)
    model.set_gradient_checkpointing(training.gradient_checkpointing)
    method = prepare_method(model, config)
    method.model.to(world.device).train()
    return method


def build_engine(config: TrainConfig, method: Method, world: World) -> Engine:
    """ZeRO-2 where all weights train; plain data parallel where only adapters do, whose state is small."""
    engine = Zero2 if method.peft_model is None else DataParallel
    training = config.training
    return engine(method.model, world, weight_decay=training.weight_decay, precision=training.precision)


def load_datasets(config: TrainConfig) -> tuple[TrainingSamples, HeldOut | None]:
    """The samples to train on, and those to score if the config asks for scores."""
    processor = Processor.load(config.model_dir, config.training.num_crops)
    samples, questions = open_task(config, processor)
    return samples, None if questions is None else hold_out(config, questions, processor)


def count_steps(config: TrainConfig, num_samples: int) -> int:
    """Optimizer steps of the whole run; the last one is filled up from the next epoch."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    return math.ceil((config.training.epochs or 1) * num_samples / config.training.global_batch_size)


def build_run(
    config: TrainConfig,
    world: World,
    narrator: Narrator,
    progress: Progress,
    stop: StopRequest,
    *,
    layout: RunLayout,
    start: Start,
    method: Method,
    engine: Engine,
    samples: TrainingSamples,
    held_out: HeldOut | None,
    loader: Loader,
) -> Run:
    """Everything but the engine's state, which `restore` gives it.

    UserError where the run continues and its training data has changed.
    """
    training = config.training
    world.from_first(lambda: keep_data(layout, samples, is_continued=start.origin is not None))
    total_steps = count_steps(config, len(samples))

    def plan(step: int) -> list[list[int]]:
        indices = step_indices(
            seed=training.seed, step=step, num_samples=len(samples), global_batch=training.global_batch_size
        )
        return split(indices, rank=world.rank, world=world.size, micro_batch=training.micro_batch_size)

    lay_out = partial(collate, original_max_positions=method.model.model_config.original_max_positions)
    progress.update(step=start.step, totalSteps=total_steps)
    if world.is_first:
        narrator.steps = StepLog(
            progress,
            start.folder.metrics,
            total_steps=total_steps,
            samples_per_epoch=len(samples),
            device=world.device,
        )
    evaluator = None
    if held_out is not None:
        evaluator = Evaluator(
            method.model,
            engine.parameters,
            held_out,
            world,
            layout,
            start.folder,
            on_progress=narrator.evaluation_progress,
        )
    return Run(
        config=config,
        world=world,
        model=method.model,
        engine=engine,
        batches=BatchesAhead(samples, loader, plan, lay_out, range(start.step, total_steps)),
        saver=Saver(layout, start, world, config.checkpoint.keep),
        evaluator=evaluator,
        narrator=narrator,
        stop=stop,
        total_steps=total_steps,
        step=start.step,
    )
