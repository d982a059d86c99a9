"""The micro-batches of each step, prepared in a thread while the step before is computed."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from phitune_trainer.model import Batch

STEPS_AHEAD = 2


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of one step, or why it could not be prepared."""

    micro_batches: list[Batch]
    problem: Exception | None = None

    def check(self) -> None:
        """Raise what kept this rank from preparing its samples, if anything did."""
        if self.problem is not None:
            raise self.problem

    @property
    def num_samples(self) -> int:
        """Samples of this rank."""
        return sum(batch.num_samples for batch in self.micro_batches)

    @property
    def num_images(self) -> int:
        """Pictures of this rank."""
        return sum(batch.num_images for batch in self.micro_batches)

    @property
    def num_tokens(self) -> int:
        """Tokens of this rank, pictures included."""
        return sum(batch.num_tokens for batch in self.micro_batches)

    @property
    def num_label_tokens(self) -> int:
        """Trained tokens of this rank."""
        return sum(batch.num_label_tokens for batch in self.micro_batches)


class BatchesAhead:
    """Calls `prepare(step)` for one step after the other, a few steps ahead of `next`."""

    def __init__(self, prepare: Callable[[int], list[Batch]], steps: range) -> None:
        self._prepare = prepare
        self._steps = steps
        self._ready: queue.Queue[StepBatches] = queue.Queue(maxsize=STEPS_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def next(self) -> StepBatches:
        """The next step's batches. Ask no more often than there are steps, nor after a problem."""
        return self._ready.get()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The thread works within this block only."""
        self._thread.start()
        try:
            yield
        finally:
            self._closed.set()
            while self._thread.is_alive():
                self._make_room()
                self._thread.join(timeout=0.1)

    def _run(self) -> None:
        for step in self._steps:
            if self._closed.is_set():
                return
            try:
                self._ready.put(StepBatches(self._prepare(step)))
            except Exception as problem:  # noqa: BLE001 - the training thread raises it
                self._ready.put(StepBatches([], problem))
                return

    def _make_room(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()
