"""The training loop: the same for every method, engine, device and number of ranks."""

import math
import time
from dataclasses import dataclass, field
from typing import NoReturn

import torch

from phitune_trainer.batches import BatchesAhead, StepBatches
from phitune_trainer.checkpoint.saver import Saver
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine import Engine
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Interrupted, UserError
from phitune_trainer.evaluate.evaluator import Evaluator
from phitune_trainer.logs import Step
from phitune_trainer.model import Phi3V
from phitune_trainer.narrator import Narrator
from phitune_trainer.schedule import learning_rate
from phitune_trainer.stop import StopRequest

_REMEDY = "the weights are unchanged and nothing of this step was saved; try a lower training.learningRate"
_MOST_SUSPECTS = 8


class Diverged(Exception):
    """A step gave numbers that are not finite; the weights are as they were before it."""


@dataclass(kw_only=True)
class Run:
    """Everything that one training run needs, and how far it has come."""

    config: TrainConfig
    world: World
    model: Phi3V
    engine: Engine
    batches: BatchesAhead
    saver: Saver
    evaluator: Evaluator | None
    """None where nothing is held out to score."""
    narrator: Narrator
    stop: StopRequest
    total_steps: int
    step: int
    """Optimizer steps done."""
    saved_at: float = field(default_factory=time.monotonic)

    def save(self, *, must: bool) -> None:
        """Write a checkpoint of this step; if it need not be and the volume refuses it, say so and go on."""
        self.narrator.saving(self.step)
        try:
            self.saver.save(
                self.step, self.engine, {"config": self.config.model_dump(mode="json", by_alias=True)}
            )
        except UserError as problem:
            if must:
                raise
            self.narrator.trouble(f"no checkpoint of step {self.step}: {problem}; training goes on")
        self.saved_at = time.monotonic()
        self.narrator.saved(self.saver.last)

    def evaluate(self) -> None:
        """Score the held-out samples, if any; a request to stop in the middle of it ends the run."""
        if self.evaluator is None:
            return
        self.narrator.evaluating(self.step)
        scores = self.evaluator.evaluate(self.step, should_stop=lambda: self.stop.requested)
        if scores is None:
            self.end_here()
        self.narrator.evaluated(scores)

    def evaluate_before_training(self) -> None:
        """Score the base model unless an earlier start has, or go on with scoring that was stopped here.

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


def train(run: Run) -> None:
    """Take the steps that are left. Ends early, with a checkpoint, by raising Interrupted."""
    with run.batches.running():
        while run.step < run.total_steps:
            batches = run.batches.next()
            agreed = agree(run, batches)
            if agreed.num_failed:
                run.world.together(batches.check)
            if agreed.num_stopping:
                run.end_here()
            run.narrator.step_done(train_step(run, batches, agreed), batches)
            is_last = run.step == run.total_steps
            if is_last or agreed.num_saving or is_due(run.step, run.config.checkpoint.every_steps):
                run.save(must=is_last)
            if not is_last and is_due(run.step, run.config.evaluation.every_steps):
                run.evaluate()


def train_step(run: Run, batches: StepBatches, agreed: Agreement) -> Step:
    """One optimizer step: the gradient of the mean loss over all labelled tokens of all ranks.

    Random numbers (dropout) follow from seed, step and rank, so that a resumed run draws the same ones.
    """
    torch.manual_seed((run.config.training.seed << 32) + run.step * run.world.size + run.world.rank)
    losses = []
    for number, batch in enumerate(batches.micro_batches, start=1):
        share = run.model(batch.to(run.world.device)) / agreed.num_label_tokens
        run.engine.backward(share, is_last=number == len(batches.micro_batches))
        losses.append(share.detach())
    loss = run.world.sum_(torch.stack(losses).sum())
    # Here the host waits for the device: a step too late, the weights and then the checkpoints are spoilt.
    if not math.isfinite(loss.item()):
        raise Diverged(f"step {run.step + 1}: the loss is {loss.item()}; {suspects(run, batches, losses)}")
    rate = step_learning_rate(run)
    grad_norm = run.engine.step(rate)
    # In fp16 an overflow is usual: the engine leaves that step out and lowers its scale.
    if run.config.training.precision != "fp16" and not math.isfinite(grad_norm.item()):
        raise Diverged(
            f"step {run.step + 1}: the gradient is not finite, though the loss is, {loss.item():.4f}; "
            f"{_REMEDY}"
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
    )


def suspects(run: Run, batches: StepBatches, losses: list[torch.Tensor]) -> str:
    """Which samples, over all ranks, were in the passes whose loss is not finite, and what to do."""
    own = [
        where
        for batch, loss in zip(batches.micro_batches, losses, strict=True)
        if not math.isfinite(loss.item())
        for where in batch.where
    ]
    found = [where for ranks in run.world.gather(own) for where in ranks]
    more = f" and {len(found) - _MOST_SUSPECTS} more" if len(found) > _MOST_SUSPECTS else ""
    among = f"look at the samples {', '.join(found[:_MOST_SUSPECTS])}{more}; " if found else ""
    return among + _REMEDY


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
