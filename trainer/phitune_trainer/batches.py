"""The micro-batches of each step, put together in a thread while the step before is computed."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice

from phitune_trainer.data.dataset import TrainingSamples
from phitune_trainer.data.workers import Loader
from phitune_trainer.model import Batch, Sample

STEPS_AHEAD = 2
_SECONDS_TO_END = 5.0
"""For the thread, before and after its workers are killed; then it is left alone."""


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of one step, or why it could not be prepared."""

    micro_batches: list[Batch]
    problem: Exception | None = None
    seconds_waited: float = 0.0
    """That the training thread stood still for them."""

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
    """The batches of one step after the other, made a few steps ahead of `next`.

    `plan` says which samples this rank takes in a step, cut into micro-batches; it depends on the step alone,
    so a run that is resumed at a step goes on with the samples it would have had. `loader` makes the samples,
    a few beyond the step that is being put together.
    """

    def __init__(
        self,
        dataset: TrainingSamples,
        loader: Loader,
        plan: Callable[[int], list[list[int]]],
        collate: Callable[[list[Sample]], Batch],
        steps: range,
    ) -> None:
        self._dataset = dataset
        self._loader = loader
        self._plan = plan
        self._collate = collate
        self._steps = steps
        self._ready: queue.Queue[StepBatches] = queue.Queue(maxsize=STEPS_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    @property
    def summary(self) -> str:
        """Who makes the samples, for people."""
        return self._loader.summary

    def next(self) -> StepBatches:
        """The next step's batches. Ask no more often than there are steps, nor after a problem."""
        began = time.monotonic()
        found = self._ready.get()
        return replace(found, seconds_waited=time.monotonic() - began)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The thread and the loader work within this block only."""
        self._thread.start()
        try:
            yield
        finally:
            self._closed.set()
            if not self._has_ended_within(_SECONDS_TO_END):
                self._loader.interrupt()  # a worker may wait for a volume that hangs
            if self._has_ended_within(_SECONDS_TO_END):
                self._loader.close()

    def _run(self) -> None:
        try:
            samples = self._loader.load(self._dataset, self._indices())
            for step in self._steps:
                pieces = [list(islice(samples, len(piece))) for piece in self._plan(step)]
                if self._closed.is_set():
                    return
                self._ready.put(StepBatches([self._collate(piece) for piece in pieces]))
        except Exception as problem:  # noqa: BLE001 - the training thread raises it
            self._ready.put(StepBatches([], problem))

    def _indices(self) -> Iterator[int]:
        """The samples of this rank, step after step, until the block is left."""
        for step in self._steps:
            for index in chain.from_iterable(self._plan(step)):
                if self._closed.is_set():
                    return
                yield index

    def _has_ended_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until:
            self._make_room()
            self._thread.join(timeout=0.1)
        return not self._thread.is_alive()

    def _make_room(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()
