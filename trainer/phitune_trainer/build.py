"""Putting a run together from its config: model, method, engine, data, and everything that watches them."""

import math
from functools import partial

import torch

from phitune_trainer.batch_flops import batch_flops, trained_of
from phitune_trainer.batches import BatchesAhead
from phitune_trainer.checkpoint.saver import Saver
from phitune_trainer.checkpoint.start import Start
from phitune_trainer.config import Precision, TrainConfig
from phitune_trainer.data import Batch, Processor, Sample, collate
from phitune_trainer.data.costs import costs_file, read_costs
from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.open import open_task
from phitune_trainer.data.plan import equal_cost, share_out
from phitune_trainer.data.sampler import step_indices
from phitune_trainer.data.workers import Loader
from phitune_trainer.engine import Engine
from phitune_trainer.engine.data_parallel import DataParallel
from phitune_trainer.engine.world import World
from phitune_trainer.engine.zero2 import Zero2
from phitune_trainer.errors import UserError
from phitune_trainer.evaluate.evaluation import Embed, HeldOut, hold_out
from phitune_trainer.evaluate.evaluator import Evaluator
from phitune_trainer.kept_pictures import KeptPictures, choose_kept_pictures
from phitune_trainer.logs import StepLog, say
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method, prepare_method
from phitune_trainer.model import load_model
from phitune_trainer.model.flash import why_not
from phitune_trainer.model.read import PRECISIONS
from phitune_trainer.narrator import Narrator
from phitune_trainer.peak_flops import peak_flops
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_data
from phitune_trainer.step_files import StepFiles
from phitune_trainer.stop import StopRequest

_COPY_BYTES = 12
"""Of each trained parameter: weight and AdamW's two averages, in float32."""


def load_method(config: TrainConfig, world: World) -> Method:
    """The base model on this rank's device, its trained parameters chosen.

    Raises UserError where the attention that is asked for cannot run there.
    """
    training = config.training
    if training.attention == "flash" and (reason := why_not(world.device, PRECISIONS[training.precision])):
        raise UserError(f"training.attention: flash cannot run here, {reason}; use auto or sdpa")
    model = load_model(config.model_dir, dtype=PRECISIONS[training.precision], attention=training.attention)
    model.set_gradient_checkpointing(training.gradient_checkpointing)
    method = prepare_method(model, config)
    method.model.to(world.device).train()
    return method


def build_engine(config: TrainConfig, method: Method, world: World) -> Engine:
    """ZeRO-2 where all weights train; plain data parallel where only adapters do, whose state is small."""
    training = config.training
    if method.peft_model is not None:
        return DataParallel(
            method.model, world, weight_decay=training.weight_decay, precision=training.precision
        )
    return Zero2(
        method.model,
        world,
        weight_decay=training.weight_decay,
        precision=training.precision,
        offload_optimizer=training.offload_optimizer,
    )


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


def count_evaluations(config: TrainConfig, step: int, total_steps: int) -> int:
    """How often a start at this step scores the held-out samples, if no earlier one has done some of that."""
    every = config.evaluation.every_steps
    before = config.evaluation.baseline and step == 0
    between = 0 if every is None else (total_steps - 1) // every - step // every
    return before + between + 1


def scored_are_kept_from(config: TrainConfig, num_samples: int, *, step: int, total_steps: int) -> int:
    """The step from which pictures that are scored may take the room for kept ones, for a start at `step`.

    After an epoch where those that are trained on come up more often, else at once: a scoring before the
    training would leave them no room. A pod scores the same samples each time; of those that it trained on,
    it finds one in as many as there are pods.
    """
    training = config.training
    epochs = (total_steps - step) * training.global_batch_size / num_samples
    scorings = count_evaluations(config, step, total_steps)
    if (epochs - 1) / config.world.nodes <= scorings - 1:
        return 0
    return step + math.ceil(num_samples / training.global_batch_size)


def _embed_at(pictures: KeptPictures, kept_from: int, step: int) -> Embed:
    """What embeds the pictures of an evaluation after `step` steps."""
    return partial(pictures.each, keep=step >= kept_from)


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
    costs = world.from_first(lambda: read_costs(costs_file(config), samples))

    def plan(step: int) -> list[list[int]]:
        indices = step_indices(
            seed=training.seed, step=step, num_samples=len(samples), global_batch=training.global_batch_size
        )
        cost = equal_cost if costs is None else costs.__getitem__
        return share_out(indices, cost, world=world.size, micro_batch=training.samples_per_pass)[world.rank]

    trains_again = total_steps * training.global_batch_size > len(samples)
    scores_again = held_out is not None and count_evaluations(config, start.step, total_steps) > 1
    pictures = choose_kept_pictures(
        method.model.model.vision_embed_tokens,
        start=f"{config.run.uid[:8]}-{start.folder.number}",
        come_again=trains_again or scores_again,
        num_crops=training.num_crops,
        ranks=config.world.processes_per_node,
        reserved=checkpoint_copy_bytes(config, method, engine),
    )

    def lay_out(taken: list[Sample]) -> Batch:
        batch = collate(taken, original_max_positions=method.model.model_config.original_max_positions)
        if pictures is not None and trains_again:
            batch = pictures.look_up(batch)
        if world.device.type != "cuda":
            return batch
        with torch.cuda.device(world.device):  # a thread begins with the first one
            return batch.pinned()

    progress.update(step=start.step, totalSteps=total_steps)
    if world.is_first:
        narrator.steps = StepLog(
            progress,
            StepFiles(start.folder, say),
            total_steps=total_steps,
            samples_per_epoch=len(samples),
            device=world.device,
            peak_flops=peak_flops_of(world, training.precision),
        )
    evaluator = None
    if held_out is not None:
        kept_from = scored_are_kept_from(config, len(samples), step=start.step, total_steps=total_steps)
        evaluator = Evaluator(
            method.model,
            engine.parameters,
            held_out,
            world,
            layout,
            start.folder,
            embed=partial(_embed_at, pictures, kept_from) if pictures is not None and scores_again else None,
            on_progress=narrator.evaluation_progress,
        )
    return Run(
        config=config,
        world=world,
        model=method.model,
        engine=engine,
        batches=BatchesAhead(samples, loader, plan, lay_out, range(start.step, total_steps)),
        pictures=pictures,
        is_balanced=costs is not None,
        saver=Saver(layout, start, world, config.checkpoint.keep),
        evaluator=evaluator,
        narrator=narrator,
        stop=stop,
        count_flops=partial(batch_flops, config=method.model.model_config, trained=trained_of(config)),
        total_steps=total_steps,
        step=start.step,
        steps_ahead=choose_steps_ahead(engine, world),
    )


def choose_steps_ahead(engine: Engine, world: World) -> int:
    """None on a CPU, where a step is over once it is begun."""
    return engine.steps_ahead if world.device.type == "cuda" else 0


def checkpoint_copy_bytes(config: TrainConfig, method: Method, engine: Engine) -> int:
    """Memory of the host that a pod's ranks will take for the copies of their state (checkpoint/saver.py)."""
    num_trained = sum(parameter.numel() for parameter in engine.parameters.values())
    state = _COPY_BYTES * num_trained
    if method.peft_model is not None:  # rank 0 alone copies
        return state
    return state * config.world.processes_per_node // config.world.size


def peak_flops_of(world: World, precision: Precision) -> float | None:
    """FLOP/s of the devices of all ranks, if they are GPUs like this rank's; None where that is not known."""
    if world.device.type != "cuda":
        return None
    one = peak_flops(torch.cuda.get_device_name(world.device), precision)
    return None if one is None else one * world.size
