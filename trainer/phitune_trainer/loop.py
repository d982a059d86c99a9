"""The training loop: the same for every method, engine, device and number of ranks."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import torch

from phitune_trainer.batches import BatchesAhead, StepBatches
from phitune_trainer.checkpoint.saver import Saved, Saver
from phitune_trainer.config import TrainConfig
from phitune_trainer.divergence import Pass, find_origin
from phitune_trainer.engine import Engine, Outcome
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Diverged, Interrupted, UserError
from phitune_trainer.evaluate.evaluator import Evaluator
from phitune_trainer.kept_pictures import KeptPictures
from phitune_trainer.logs import Step
from phitune_trainer.model import Batch, Phi3V
from phitune_trainer.narrator import Narrator
from phitune_trainer.schedule import learning_rate
from phitune_trainer.score_words import first_weights
from phitune_trainer.stop import StopRequest


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


@dataclass(frozen=True)
class Begun:
    """A step that the device may still be at work on."""

    number: int
    batches: StepBatches
    agreed: Agreement
    learning_rate: float
    outcome: Callable[[], Outcome]
    """Waits for it."""


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
    """Optimizer steps done, or begun."""
    steps_ahead: int
    """How many of those may be begun before the outcome of one is looked at."""
    begun: deque[Begun] = field(default_factory=deque)
    """Those whose outcome was not looked at."""
    num_skipped: int = 0
    """Of this start's: those that left the weights as they were, for want of a finite gradient in fp16."""
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, *, must: bool) -> None:
        """Begin a checkpoint of this step, which is written while training goes on; `must`: wait for its end.

        UserError where it must be, and the volume does not take it; else that is said when it is known.
        """
        self.catch_up()
        self.settle()
        with self.narrator.off_the_clock():
            self.saver.begin(
                self.step, self.engine, {"config": self.config.model_dump(mode="json", by_alias=True)}
            )
        self.saved_at = time.monotonic()
        if must:
            self.settle(must=True)

    def catch_up(self, *, ahead: int = 0) -> None:
        """Look at what came of the steps begun, but for the last few. Diverged where one was not finite."""
        while len(self.begun) > ahead:
            conclude(self, self.begun.popleft())

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
        self.catch_up()
        self.settle()  # which takes agreements that an evaluation does not make
        self.narrator.evaluating(self.step, first_weights=first_weights(self.config.resume_from))
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


def train(run: Run) -> None:
    """Take the steps that are left. Ends early, with a checkpoint, by raising Interrupted."""
    with run.batches.running():
        try:
            while run.step < run.total_steps:
                batches = run.batches.next()
                agreed = agree(run, batches)
                if run.saver.pending is not None and not agreed.num_writing:
                    run.go_on_saving()
                if agreed.num_failed:
                    run.catch_up()
                    run.settle()
                    run.world.together(batches.check)
                if agreed.num_stopping:
                    run.end_here()
                run.begun.append(train_step(run, batches, agreed))
                run.catch_up(ahead=run.steps_ahead)
                is_last = run.step == run.total_steps
                if is_last or agreed.num_saving or is_due(run.step, run.config.checkpoint.every_steps):
                    run.save(must=is_last)
                if not is_last and is_due(run.step, run.config.evaluation.every_steps):
                    run.evaluate()
        except Diverged:
            run.settle()  # an earlier step's good weights
            raise


def train_step(run: Run, batches: StepBatches, agreed: Agreement) -> Begun:
    """One optimizer step: the gradient of the mean loss over all labelled tokens of all ranks.

    Random numbers (dropout) follow from seed, step and rank, so that a resumed run draws the same ones.
    """
    draw_from(run, run.step)
    losses = []
    for number, batch in enumerate(batches.micro_batches, start=1):
        share = run.model(on_device(run, batch)) / agreed.num_label_tokens
        run.engine.backward(share, is_last=number == len(batches.micro_batches))
        losses.append(share.detach())
    loss = run.world.sum_(torch.stack(losses).sum())
    rate = step_learning_rate(run)
    outcome = run.engine.step(rate, loss)
    run.step += 1
    return Begun(run.step, batches, agreed, rate, outcome)


def conclude(run: Run, begun: Begun) -> None:
    """Wait for a step and tell of it. Diverged where it was not finite: the weights are those before it."""
    outcome = begun.outcome()
    if outcome.has_diverged:
        raise Diverged(f"step {begun.number}: {what_is_wrong(run, begun, outcome.loss)}")
    if not math.isfinite(outcome.grad_norm):
        run.num_skipped += 1
        run.narrator.say(
            f"step {begun.number} is left out: it overflows in fp16; {run.num_skipped} so far, "
            f"the loss scale is now {outcome.loss_scale:g}"
        )
    step = Step(
        step=begun.number,
        loss=outcome.loss,
        grad_norm=outcome.grad_norm,
        learning_rate=begun.learning_rate,
        num_samples=begun.agreed.num_samples,
        num_images=begun.agreed.num_images,
        num_tokens=begun.agreed.num_tokens,
        num_flops=begun.agreed.num_flops,
        num_skipped=run.num_skipped,
        data_seconds=begun.batches.seconds_waited,
    )
    run.narrator.step_done(step, begun.batches)


def draw_from(run: Run, step: int) -> None:
    """Begin the random numbers of the step after `step`: they follow from seed, step and rank."""
    torch.manual_seed((run.config.training.seed << 32) + step * run.world.size + run.world.rank)


def on_device(run: Run, batch: Batch) -> Batch:
    """The batch where the model is, its pictures embedded if those are kept."""
    batch = batch.to(run.world.device)
    return run.pictures.fill(batch) if run.pictures is not None and batch.picture_keys else batch


def what_is_wrong(run: Run, begun: Begun, loss: float) -> str:
    """Which number of a step is not finite, with which samples and layer that begins, and what to do."""

    def compute(batch: Batch) -> torch.Tensor:
        share: torch.Tensor = run.model(on_device(run, batch)) / begun.agreed.num_label_tokens
        return share

    draw_from(run, begun.number - 1)
    passes = [Pass(batch.where, partial(compute, batch)) for batch in begun.batches.micro_batches]
    is_loss_finite = math.isfinite(loss)
    found = find_origin(run.world, run.model, passes, of_gradient=is_loss_finite)
    if is_loss_finite:
        return f"the gradient is not finite, though the loss is, {loss:.4f}; {found}"
    return f"the loss is {loss}; {found}"


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
