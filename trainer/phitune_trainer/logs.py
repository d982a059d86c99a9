"""What people read while a run trains, and the numbers of every step on the volume.

The numbers of the steps are read when a line is written, all of them at once.
"""

import logging
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phitune_trainer.progress import Progress
from phitune_trainer.strict_json import to_json

SECONDS_BETWEEN_LINES = 5.0


def say(line: str) -> None:
    """One line for people, at once."""
    print(line, flush=True)


def quieten_libraries() -> None:
    """Keep stdout for people: libraries speak up only for warnings."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    for name in ("DeepSpeed", "transformers", "peft", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It would say that it has no fused kernel for 4 bits on CPUs, where QLoRA is for trying things out.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Images for the CPU leave triton out, and torch would say that it cannot count the kernels of triton.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Step:
    """The numbers of one optimizer step over all ranks; tensors may still be on their way."""

    step: int
    loss: torch.Tensor
    grad_norm: torch.Tensor
    learning_rate: float
    num_samples: int
    num_images: int
    num_tokens: int


class StepLog:
    """Rank 0's record of the steps: a line every few seconds, metrics.jsonl, and the progress."""

    def __init__(
        self,
        progress: Progress,
        metrics: Path,
        *,
        total_steps: int,
        samples_per_epoch: int,
        device: torch.device,
    ) -> None:
        self._progress = progress
        self._metrics = metrics
        self._total_steps = total_steps
        self._samples_per_epoch = samples_per_epoch
        self._device = device
        self._waiting: list[Step] = []
        self._has_complained = False
        self._since = time.monotonic()
        self._num_lines = 0
        self._num_timed = 0
        self._seconds_timed = 0.0

    def record(self, step: Step) -> None:
        """Take note of a step; write a line if it is the first, the last, or some seconds have gone by."""
        self._waiting.append(step)
        is_last = step.step == self._total_steps
        if not self._num_lines or is_last or time.monotonic() - self._since >= SECONDS_BETWEEN_LINES:
            self.flush()

    def restart_clock(self) -> None:
        """Leave out of the next line's speed what is not training: an evaluation, a checkpoint."""
        self.flush()
        self._since = time.monotonic()

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._waiting:
            return
        steps, self._waiting = self._waiting, []
        losses = torch.stack([step.loss for step in steps]).tolist()
        norms = torch.stack([step.grad_norm for step in steps]).tolist()
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-9), now
        self._keep(
            {
                "step": step.step,
                "loss": loss,
                "gradNorm": norm,
                "learningRate": step.learning_rate,
                "samples": step.num_samples,
                "tokens": step.num_tokens,
            }
            for step, loss, norm in zip(steps, losses, norms, strict=True)
        )
        last = steps[-1]
        images_per_second = sum(step.num_images for step in steps) / seconds
        tokens_per_second = sum(step.num_tokens for step in steps) / seconds
        if self._num_lines == 1:  # the first step warms up: its time says nothing of the others
            self._num_timed, self._seconds_timed = 0, 0.0
        self._num_lines += 1
        self._num_timed += len(steps)
        self._seconds_timed += seconds
        eta = round((self._total_steps - last.step) * self._seconds_timed / self._num_timed)
        epoch = last.step * last.num_samples / max(1, self._samples_per_epoch)
        self._progress.update(
            state="training",
            step=last.step,
            epoch=round(epoch, 3),
            loss=losses[-1],
            learningRate=last.learning_rate,
            imagesPerSecond=round(images_per_second, 2),
            tokensPerSecond=round(tokens_per_second, 1),
            etaSeconds=eta,
        )
        say(
            f"step {last.step:>{len(str(self._total_steps))}}/{self._total_steps}  epoch {epoch:.2f}  "
            f"loss {losses[-1]:.4f}  lr {last.learning_rate:.2e}  {images_per_second:.1f} images/s  "
            f"{tokens_per_second:,.0f} tokens/s  memory {memory_gib(self._device):.1f} GiB  "
            f"ETA {duration(eta)}"
        )

    def _keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl; a volume that takes no more must not stop the training."""
        text = "".join(to_json(row) + "\n" for row in rows)
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            if not self._has_complained:
                say(f"warning: steps are missing from {self._metrics}: {error.strerror}; training goes on")
            self._has_complained = True


def memory_gib(device: torch.device) -> float:
    """The most memory held so far, in GiB: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
