"""The training loop: the same for every method, engine, device and number of ranks."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import torch

from phitune_trainer.batches import BatchesAhead, StepBatches
from phitune_trainer.checkpoint.saver import Saved, Saver
from phitune_trainer.config import TrainConfig
from phitune_trainer.divergence import Diverged, Pass, find_origin
from phitune_trainer.engine import Engine
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Interrupted, UserError
from phitune_trainer.evaluate.evaluator import Evaluator
from phitune_trainer.kept_pictures import KeptPictures
from phitune_trainer.logs import Step
from phitune_trainer.model import Batch, Phi3V
from phitune_trainer.narrator import Narrator, first_weights
from phitune_trainer.schedule import learning_rate
from phitune_trainer.stop import StopRequest

LEAST_SCALE = 1.0
"""A gradient that overflows in fp16 even when nothing is scaled up will not be finite at any scale."""


@dataclass(kw_only=True)
class Run:
    """Everything that one training run needs, and how far it has come."""

    config: TrainConfig
    world: World
    model: Phi3V
    engine: Engine
    batches: BatchesAhead
    is_balanced: bool
    """Whether the samples of a step are shared out by what they cost."""
    pictures: KeptPictures | None
    """None where no picture is worth keeping."""
    saver: Saver
    evaluator: Evaluator | None
    """None where nothing is held out to score."""
    narrator: Narrator
    stop: StopRequest
    count_flops: Callable[[Batch], int]
    """What a pass takes by the model's formula."""
    total_steps: int
    step: int
    """Optimizer steps done."""
    num_skipped: int = 0
    """Of this start's: those that left the weights as they were, for want of a finite gradient in fp16."""
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, *, must: bool) -> None:
        """Begin a checkpoint of this step, which is written while training goes on; `must`: wait for its end.

        UserError where it must be, and the volume does not take it; else that is said when it is known.
        """
        self.settle()
        with self.narrator.off_the_clock():
            self.saver.begin(
                self.step, self.engine, {"config": self.config.model_dump(mode="json", by_alias=True)}
            )
        self.saved_at = time.monotonic()
        if must:
            self.settle(must=True)

    def settle(self, *, must: bool = False) -> None:
        """Wait for the checkpoint that is on its way, if one is."""
        if self.saver.pending is None:
            return
        self.narrator.saving(self.step)
        self._tell(lambda: self.saver.finish(self.narrator.saving_progress), must=must)
        self.narrator.waited()

    def go_on_saving(self) -> None:
        """Take the next step of the checkpoint that is on its way, on which no rank is at work."""
        self._tell(self.saver.advance, must=False)

    def _tell(self, go_on: Callable[[], Saved | None], *, must: bool) -> None:
        step = self.saver.pending
        try:
            saved = go_on()
        except UserError as problem:
            if must:
                raise
            self.narrator.trouble(
                f"no checkpoint of step {step}: {problem}; training goes on, and the next save tries again"
            )
            return
        if saved is not None:
            self.narrator.saved(saved.checkpoint, saved.seconds)
            if saved.trouble is not None:
                self.narrator.trouble(f"old checkpoints stay: {saved.trouble}; training goes on")

    def evaluate(self) -> None:
        """Score the held-out samples, if any; a request to stop in the middle of it ends the run."""
        if self.evaluator is None:
            return
        self.settle()  # which takes agreements that an evaluation does not make
        self.narrator.evaluating(self.step, first_weights=first_weights(self.config))
        scores = self.evaluator.evaluate(self.step, should_stop=lambda: self.stop.requested)
        if scores is None:
            self.end_here()
        self.narrator.evaluated(scores)

    def evaluate_before_training(self) -> None:
        """Score what the run begins with unless an earlier start has, or go on with scoring that stopped.

        An earlier start may have ended while it scored the weights that this one continues from. What it has
        answered is not asked again, so that this costs little where it had come to the end.
        """
        if self.evaluator is None:
            return
        asked = self.config.evaluation
        if self.step == 0:
            if asked.baseline and self.evaluator.baseline is None:
                self.evaluate()
        elif self.step < self.total_steps and is_due(self.step, asked.every_steps):
            self.evaluate()

    def end_here(self) -> NoReturn:
        """Save, if there is anything to lose, and end."""
        if self.step == 0:
            raise Interrupted("stopped before the first step; nothing is lost")
        self.save(must=True)
        raise Interrupted(
            f"stopped after step {self.step} of {self.total_steps}; saved, and continues from there"
        )


@dataclass(frozen=True)
class Agreement:
    """What all ranks know of a step before they take it: sums over the ranks."""

    num_label_tokens: int
    num_samples: int
    num_images: int
    num_tokens: int
    num_stopping: int
    num_saving: int
    num_failed: int
    num_flops: int
    num_writing: int


def train(run: Run) -> None:
    """Take the steps that are left. Ends early, with a checkpoint, by raising Interrupted."""
    with run.pictures or nullcontext(), run.batches.running():
        while run.step < run.total_steps:
            batches = run.batches.next()
            agreed = agree(run, batches)
            if run.saver.pending is not None and not agreed.num_writing:
                run.go_on_saving()
            if agreed.num_failed:
                run.settle()
                run.world.together(batches.check)
            if agreed.num_stopping:
                run.end_here()
            try:
                step = train_step(run, batches, agreed)
            except Diverged:
                run.settle()  # an earlier step's good weights
                raise
            run.narrator.step_done(step, batches)
            is_last = run.step == run.total_steps
            if is_last or agreed.num_saving or is_due(run.step, run.config.checkpoint.every_steps):
                run.save(must=is_last)
            if not is_last and is_due(run.step, run.config.evaluation.every_steps):
                run.evaluate()


def train_step(run: Run, batches: StepBatches, agreed: Agreement) -> Step:
    """One optimizer step: the gradient of the mean loss over all labelled tokens of all ranks.

    Random numbers (dropout) follow from seed, step and rank, so that a resumed run draws the same ones.
    """
    draw_from(run)
    losses = []
    for number, batch in enumerate(batches.micro_batches, start=1):
        share = run.model(on_device(run, batch)) / agreed.num_label_tokens
        run.engine.backward(share, is_last=number == len(batches.micro_batches))
        losses.append(share.detach())
    loss = run.world.sum_(torch.stack(losses).sum())
    # Here the host waits for the device: a step too late, the weights and then the checkpoints are spoilt.
    is_fp16 = run.config.training.precision == "fp16"
    if not is_fp16 and not math.isfinite(loss.item()):
        raise Diverged(f"step {run.step + 1}: {what_is_wrong(run, batches, agreed, loss)}")
    rate = step_learning_rate(run)
    grad_norm = run.engine.step(rate)
    if not math.isfinite(grad_norm.item()):
        # In fp16 an overflow is usual: the engine has left the step out and lowered its scale.
        scale = run.engine.scalars()["lossScale"] if is_fp16 else LEAST_SCALE
        if scale <= LEAST_SCALE:
            raise Diverged(f"step {run.step + 1}: {what_is_wrong(run, batches, agreed, loss)}")
        run.num_skipped += 1
        run.narrator.say(
            f"step {run.step + 1} is left out: it overflows in fp16; {run.num_skipped} so far, "
            f"the loss scale is now {scale:g}"
        )
    run.step += 1
    return Step(
        step=run.step,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=rate,
        num_samples=agreed.num_samples,
        num_images=agreed.num_images,
        num_tokens=agreed.num_tokens,
        num_flops=agreed.num_flops,
        num_skipped=run.num_skipped,
    )


def draw_from(run: Run) -> None:
    """Begin the random numbers of the step that comes next: they follow from seed, step and rank."""
    torch.manual_seed((run.config.training.seed << 32) + run.step * run.world.size + run.world.rank)


def on_device(run: Run, batch: Batch) -> Batch:
    """The batch where the model is, its pictures embedded if those are kept."""
    batch = batch.to(run.world.device)
    return batch if run.pictures is None else run.pictures.fill(batch)


def what_is_wrong(run: Run, batches: StepBatches, agreed: Agreement, loss: torch.Tensor) -> str:
    """Which number of a step is not finite, with which samples and layer that begins, and what to do."""

    def compute(batch: Batch) -> torch.Tensor:
        share: torch.Tensor = run.model(on_device(run, batch)) / agreed.num_label_tokens
        return share

    draw_from(run)
    passes = [Pass(batch.where, partial(compute, batch)) for batch in batches.micro_batches]
    is_loss_finite = math.isfinite(loss.item())
    found = find_origin(run.world, run.model, passes, of_gradient=is_loss_finite)
    if is_loss_finite:
        return f"the gradient is not finite, though the loss is, {loss.item():.4f}; {found}"
    return f"the loss is {loss.item()}; {found}"


def agree(run: Run, batches: StepBatches) -> Agreement:
    """Count the step over all ranks, and learn whether any of them must stop, save or give up."""
    minutes = run.config.checkpoint.every_minutes
    is_save_due = (
        minutes is not None and run.world.is_first and time.monotonic() - run.saved_at >= 60 * minutes
    )
    return Agreement(
        *run.world.sum(
            [
                batches.num_label_tokens,
                batches.num_samples,
                batches.num_images,
                batches.num_tokens,
                run.stop.requested,
                is_save_due,
                batches.problem is not None,
                sum(map(run.count_flops, batches.micro_batches)),
                run.saver.is_busy,
            ]
        )
    )


def step_learning_rate(run: Run) -> float:
    """The learning rate of the step that comes next."""
    training = run.config.training
    return learning_rate(
        run.step,
        peak=training.learning_rate,
        warmup_steps=training.warmup_steps,
        total_steps=run.total_steps,
        schedule=training.schedule,
    )


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step % every == 0
