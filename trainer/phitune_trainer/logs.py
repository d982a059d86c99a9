"""What people read while a run trains, and the numbers of every step for the volume and the progress.

The numbers of the steps are written about once a second, all of them at once.
"""

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phitune_trainer.durations import duration
from phitune_trainer.plain_text import inert
from phitune_trainer.progress import Progress
from phitune_trainer.step_files import StepFiles

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_WRITES = 1.0


def say(line: str) -> None:
    """One line for people, at once."""
    print(inert(line), flush=True)


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
    """The numbers of one optimizer step over all ranks."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    num_samples: int
    num_images: int
    num_tokens: int
    num_flops: int
    """What the step takes by the model's formula, however it was computed (batch_flops.py)."""
    num_skipped: int = 0
    """Steps so far, this one included, that left the weights as they were: overflows in fp16."""
    data_seconds: float = 0.0
    """In which this rank waited for its samples."""


@dataclass(frozen=True)
class _Taken:
    """A step and when it was taken."""

    step: Step
    time: float
    """Seconds since 1970."""
    seconds: float
    """That it took."""


class StepLog:
    """Rank 0's record of the steps: a line every few seconds, the files on the volume, and the progress."""

    def __init__(
        self,
        progress: Progress,
        files: StepFiles,
        *,
        total_steps: int,
        samples_per_epoch: int,
        device: torch.device,
        peak_flops: float | None,
    ) -> None:
        """`peak_flops`: FLOP/s of the devices of all ranks; None where it is not known, and so no MFU."""
        self.files = files
        self._progress = progress
        self._total_steps = total_steps
        self._samples_per_epoch = samples_per_epoch
        self._device = device
        self._peak_flops = peak_flops
        self._waiting: list[_Taken] = []
        """Steps whose numbers are not written yet."""
        self._unsaid: list[_Taken] = []
        """Steps since the last line."""
        self._taken_at = self._written_at = self._said_at = time.monotonic()
        self._num_lines = 0
        self._num_timed = 0
        self._seconds_timed = 0.0

    def record(self, step: Step) -> None:
        """Take note of a step; write a line if it is the first, the last, or some seconds have gone by."""
        now = time.monotonic()
        self._waiting.append(_Taken(step, time.time(), max(now - self._taken_at, 1e-9)))
        self._taken_at = now
        is_last = step.step == self._total_steps
        if not self._num_lines or is_last or now - self._said_at >= SECONDS_BETWEEN_LINES:
            self.flush()
        elif now - self._written_at >= SECONDS_BETWEEN_WRITES:
            self._write()

    def restart_clock(self) -> None:
        """Leave out of the next step's time what is not training: an evaluation, a checkpoint."""
        self.flush()
        self._taken_at = self._written_at = self._said_at = time.monotonic()

    def flush(self) -> None:
        """Write what is waiting, and a line of it."""
        self._write()
        if self._unsaid:
            self._say_line()

    def _write(self) -> None:
        """Take the waiting steps' numbers, all at once, to the files and the progress."""
        if not self._waiting:
            return
        taken, self._waiting = self._waiting, []
        memory = memory_bytes(self._device)
        self.files.add(
            [
                {
                    "step": one.step.step,
                    "time": round(one.time, 3),
                    "seconds": round(one.seconds, 4),
                    "loss": one.step.loss,
                    "gradNorm": one.step.grad_norm,
                    "learningRate": one.step.learning_rate,
                    "samples": one.step.num_samples,
                    "images": one.step.num_images,
                    "tokens": one.step.num_tokens,
                    "imagesPerSecond": round(one.step.num_images / one.seconds, 2),
                    "tokensPerSecond": round(one.step.num_tokens / one.seconds, 1),
                    "mfu": self._mfu([one]),
                    "memoryBytes": memory,
                    "skippedSteps": one.step.num_skipped,
                    "dataSeconds": round(one.step.data_seconds, 4),
                }
                for one in taken
            ]
        )
        if self._num_lines == 1:  # the first step warms up: its time says nothing of the others
            self._num_timed, self._seconds_timed = 0, 0.0
        self._num_timed += len(taken)
        self._seconds_timed += sum(one.seconds for one in taken)
        self._unsaid += taken
        self._written_at = time.monotonic()
        last = taken[-1].step
        seconds = sum(one.seconds for one in self._unsaid)
        self._progress.update(
            state="training",
            step=last.step,
            epoch=round(last.step * last.num_samples / max(1, self._samples_per_epoch), 3),
            loss=last.loss,
            learningRate=last.learning_rate,
            imagesPerSecond=round(sum(one.step.num_images for one in self._unsaid) / seconds, 2),
            tokensPerSecond=round(sum(one.step.num_tokens for one in self._unsaid) / seconds, 1),
            mfu=self._mfu(self._unsaid),
            memoryBytes=memory,
            dataWait=min(1.0, round(sum(one.step.data_seconds for one in self._unsaid) / seconds, 4)),
            etaSeconds=round((self._total_steps - last.step) * self._seconds_timed / self._num_timed),
        )

    def _mfu(self, taken: Sequence[_Taken]) -> float | None:
        """Model FLOPs utilisation over these steps, 0 to 1."""
        if self._peak_flops is None:
            return None
        num_flops = sum(one.step.num_flops for one in taken)
        return round(num_flops / sum(one.seconds for one in taken) / self._peak_flops, 4)

    def _say_line(self) -> None:
        """The newest progress, its speeds those since the last line."""
        now = self._progress.snapshot()
        say(step_line(now))
        self._num_lines += 1
        self._unsaid = []
        self._said_at = time.monotonic()


def step_line(now: Mapping[str, Any]) -> str:
    """A line of a progress, as the log has it."""
    loss = "not finite" if now["loss"] is None else f"{now['loss']:.4f}"
    mfu = "" if now["mfu"] is None else f"MFU {now['mfu']:.1%}  "
    return (
        f"step {now['step']:>{len(str(now['totalSteps']))}}/{now['totalSteps']}  epoch {now['epoch']:.2f}  "
        f"loss {loss}  lr {now['learningRate']:.2e}  {now['imagesPerSecond']:.1f} images/s  "
        f"{now['tokensPerSecond']:,.0f} tokens/s  {mfu}memory {now['memoryBytes'] / 2**30:.1f} GiB  "
        f"ETA {duration(now['etaSeconds'])}"
    )


def memory_bytes(device: torch.device) -> int:
    """The most memory held so far: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
