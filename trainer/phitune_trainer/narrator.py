"""What a run says of itself: lines for people, progress for the operator, proof for the launcher."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from phitune_trainer.batches import StepBatches
from phitune_trainer.durations import duration
from phitune_trainer.logs import Step, StepLog, say
from phitune_trainer.progress import Progress
from phitune_trainer.reports import RankReport, write_report
from phitune_trainer.score_words import detail_words, score_words

_SECONDS_BETWEEN_REPORTS = 0.25
_SECONDS_BETWEEN_LINES = 5.0
_SCORE = ("metric", "value", "low", "high", "samples", "baseline", "step")
"""What progress, and with it the operator, takes over from metrics.json."""


class Narrator:
    """One rank's voice. All ranks report to their launcher; lines and progress come from rank 0 alone."""

    def __init__(self, rank: int, reports: Path, progress: Progress) -> None:
        self._is_first = rank == 0
        self._reports = reports
        self._progress = progress
        self._report = RankReport(rank)
        self._reported_at = 0.0
        self._said_at = time.monotonic()
        self._since = time.monotonic()
        self._answered_before: int | None = None
        self._num_bytes = 0
        self.last_step = 0
        """The last step that this process took part in and knows to be over; 0: none yet."""
        self.steps: StepLog | None = None
        """Rank 0's record of steps, once the run has a folder."""

    def say(self, line: str) -> None:
        """Print a line, on rank 0."""
        if self._is_first:
            say(line)

    def report(self, **fields: Any) -> None:
        """Tell the launcher, now."""
        progress = self._progress.snapshot() if self._is_first else None
        self._report = replace(self._report, progress=progress, **fields)
        self._reported_at = time.monotonic()
        write_report(self._reports, self._report)

    def trouble(self, line: str) -> None:
        """Something went wrong that does not end the run."""
        self.say(f"warning: {line}")
        self.report(trouble=[*self._report.trouble, line])

    def step_done(self, step: Step, own: StepBatches) -> None:
        """A step is over: `step` is that of all ranks, `own` this rank's part of it."""
        if self.steps is not None:
            self.steps.record(step)
        self.last_step = step.step
        self._report.steps += 1
        self._report.samples += own.num_samples
        self._report.tokens += own.num_label_tokens
        # The first at once: a process that is killed after it must not look as if it had never trained.
        if self._report.steps == 1 or time.monotonic() - self._reported_at >= _SECONDS_BETWEEN_REPORTS:
            self.report()

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """No step's time counts what happens within this block."""
        if self.steps is not None:
            self.steps.flush()
        yield
        if self.steps is not None:
            self.steps.restart_clock()

    def saving(self, step: int) -> None:
        """Training waits for a checkpoint that is being written."""
        self._begin("saving", step)

    def saving_progress(self, written: int, total: int) -> None:
        """So many bytes of it are written, over all ranks."""
        self._moved("writing", written, total)

    def checking_progress(self, num_read: int, total: int) -> None:
        """So many bytes of a checkpoint are read to check it, over all ranks."""
        self._moved("checking", num_read, total)

    def waited(self) -> None:
        """Training goes on."""
        self._end()

    def saved(self, checkpoint: dict[str, Any], seconds: float) -> None:
        """A checkpoint is complete, so long after its step."""
        self._progress.update(lastCheckpoint=checkpoint)
        self.say(f"saved {checkpoint['path']} in {duration(seconds)}")
        self.report()

    def evaluating(self, step: int, *, first_weights: str = "the base model") -> None:
        """Scoring has begun; `first_weights`: what to call those of step 0."""
        self._begin("evaluating" if step else "baseline", step)
        self._answered_before = None
        weights = f"the weights of step {step}" if step else first_weights
        self.say(f"scoring held-out samples with {weights}")

    def evaluation_progress(self, done: int, total: int) -> None:
        """So many samples are answered; the first number is that of those known from an earlier start."""
        now = time.monotonic()
        self._progress.update()  # a sign of life, for whoever looks for one
        if self._answered_before is None:
            self._answered_before = done
            if done:
                self.say(f"{done} of {total} samples were answered before; going on from there")
        elif now - self._said_at >= _SECONDS_BETWEEN_LINES and done < total:
            self._said_at = now
            eta = (now - self._since) / (done - self._answered_before) * (total - done)
            self.say(f"scoring {done}/{total} samples  ETA {duration(eta)}")
            self.report()

    def evaluated(self, metrics: dict[str, Any]) -> None:
        """Scoring is over, and metrics.json is written."""
        self._progress.update(evaluation={name: metrics[name] for name in _SCORE})
        if self.steps is not None:
            self.steps.files.add_scores(metrics)
        self.say(f"{score_words(metrics)} in {self._took()}")
        for line in detail_words(metrics):
            self.say(line)
        self._end()

    def _moved(self, what: str, num_bytes: int, total: int) -> None:
        if num_bytes != self._num_bytes:
            self._num_bytes = num_bytes
            self._progress.update()  # a sign of life, for whoever looks for one
        if time.monotonic() - self._said_at >= _SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            self.say(f"{what} a checkpoint: {num_bytes / 2**30:.1f} of {total / 2**30:.1f} GiB")
            self.report()

    def _begin(self, state: Any, step: int) -> None:
        if self.steps is not None:
            self.steps.flush()
        self._progress.update(state=state, step=step)
        self._since = self._said_at = time.monotonic()
        self.report()

    def _end(self) -> None:
        if self.steps is not None:
            self.steps.restart_clock()
        self._progress.update(state="training")
        self.report()

    def _took(self) -> str:
        return duration(time.monotonic() - self._since)
