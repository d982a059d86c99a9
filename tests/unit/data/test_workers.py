"""Samples that are encoded in other processes: the same ones in the same order, and no process left."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import torch

from phitune_trainer.batches import BatchesAhead
from phitune_trainer.data import DataError
from phitune_trainer.data.dataset import Identity
from phitune_trainer.data.sampler import split, step_indices
from phitune_trainer.data.workers import (
    VARIABLE,
    InProcess,
    Loader,
    WorkerDied,
    Workers,
    choose_num_workers,
    start_loader,
)
from phitune_trainer.errors import UserError
from phitune_trainer.model import Sample, collate
from phitune_trainer.model.inputs import Branch

torch.set_num_threads(1)

SHAPE = (2, 3, 3)


@dataclass
class Numbered:
    """Samples whose tokens tell their number; some of them are slow, broken or deadly."""

    size: int = 40
    num_skipped: int = 0
    slow: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    faulty: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return self.size

    def identity(self) -> Identity:
        return {"samples": self.size}

    def __getitem__(self, index: int) -> Sample:
        if index in self.slow:
            time.sleep(0.02)
        if index in self.broken:
            raise DataError(f"{self.where(index)}: picture 'a.png': not found")
        if index in self.faulty:
            raise ZeroDivisionError("a fault of ours")
        if index in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        ids = torch.tensor([index, 1, 2])
        return Sample(
            input_ids=ids,
            labels=torch.full((3,), -100),
            pictures=(torch.full(SHAPE, index % 256, dtype=torch.uint8),),
            branches=(Branch(input_ids=ids[1:], labels=ids[1:]),),
            where=self.where(index),
        )

    def where(self, index: int) -> str:
        return f"train.jsonl:{index + 1}"


@pytest.fixture
def start() -> Iterator[Callable[[int], Loader]]:
    """Start a loader with so many workers; it is closed in the end."""
    started: list[Loader] = []

    def start(num_workers: int) -> Loader:
        started.append(start_loader(num_workers))
        return started[-1]

    yield start
    for loader in started:
        loader.close()


Start = Callable[[int], Loader]


def numbers(samples: Iterator[Sample]) -> list[int]:
    return [int(sample.input_ids[0]) for sample in samples]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_the_order_is_that_of_the_indices_whatever_the_number_of_workers(
    num_workers: int, start: Start
) -> None:
    order = [7, 3, 3, 39, 0, *range(40)]
    dataset = Numbered(slow=frozenset({3, 8, 20}))
    assert numbers(start(num_workers).load(dataset, iter(order))) == order


def test_a_sample_arrives_as_it_was_made(start: Start) -> None:
    [found] = start(1).load(Numbered(), iter([5]))
    made = Numbered()[5]
    assert found.where == made.where
    assert (found.pictures[0].dtype, found.pictures[0].shape) == (torch.uint8, SHAPE)
    for ours, theirs in (
        (found.input_ids, made.input_ids),
        (found.labels, made.labels),
        (found.pictures[0], made.pictures[0]),
        (found.branches[0].input_ids, made.branches[0].input_ids),
    ):
        assert torch.equal(ours, theirs)
        ours.zero_()  # what arrived can be written to, as any tensor


def first_steps(loader: Loader, steps: range, *, rank: int = 0, world: int = 1) -> list[list[list[str]]]:
    """Which samples each micro-batch of a rank has."""

    def plan(step: int) -> list[list[int]]:
        indices = step_indices(seed=3, step=step, num_samples=40, global_batch=6)
        return split(indices, rank=rank, world=world, micro_batch=2)

    batches = BatchesAhead(Numbered(), loader, plan, collate, steps)
    with batches.running():
        ready = [batches.next() for _ in steps]
    for step in ready:
        step.check()
    return [[list(batch.where) for batch in step.micro_batches] for step in ready]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_is_resumed_goes_on_with_the_samples_it_would_have_had(num_workers: int) -> None:
    whole = first_steps(InProcess(), range(12))
    assert [len(piece) for piece in whole[0]] == [2, 2, 2]
    assert first_steps(start_loader(num_workers), range(5, 12)) == whole[5:]


def test_the_ranks_of_any_world_share_the_samples_of_a_step() -> None:
    alone = first_steps(InProcess(), range(4))
    two = [first_steps(start_loader(1), range(4), rank=rank, world=2) for rank in (0, 1)]
    for step in range(4):
        shared = [where for rank in two for piece in rank[step] for where in piece]
        assert sorted(shared) == sorted(where for piece in alone[step] for where in piece)


def test_what_is_wrong_with_a_sample_is_raised_in_its_place(start: Start) -> None:
    dataset = Numbered(broken=frozenset({5, 6}), slow=frozenset({5}))
    samples = start(2).load(dataset, iter(range(10)))
    assert numbers(next(samples) for _ in range(5)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"^train\.jsonl:6: picture 'a\.png': not found$"):
        next(samples)


def test_a_fault_in_a_worker_comes_with_its_traceback_and_its_sample(start: Start) -> None:
    with pytest.raises(ZeroDivisionError, match="a fault of ours") as error:
        list(start(1).load(Numbered(faulty=frozenset({1})), iter(range(3))))
    [note] = error.value.__notes__
    assert "at train.jsonl:2" in note
    assert "in __getitem__" in note


def test_a_worker_that_is_killed_is_named_with_its_sample_instead_of_waited_for(start: Start) -> None:
    samples = start(2).load(Numbered(deadly=frozenset({9})), iter(range(40)))
    with pytest.raises(
        WorkerDied, match=r"killed by SIGKILL while it prepared train\.jsonl:10; .*raise resources\.memory"
    ):
        list(samples)


def test_a_worker_that_is_killed_while_it_waits_is_named_too() -> None:
    workers = Workers(1)
    os.kill(workers.pids[0], signal.SIGKILL)
    with pytest.raises(WorkerDied, match=rf"process {workers.pids[0]}\) was killed by SIGKILL"):
        list(workers.load(Numbered(), iter(range(4))))
    workers.close()


def test_a_step_that_cannot_be_prepared_reaches_the_training_thread(start: Start) -> None:
    batches = BatchesAhead(
        Numbered(broken=frozenset({3})), start(1), lambda step: [[step]], collate, range(9)
    )
    with batches.running():
        for _ in range(3):
            batches.next().check()
        with pytest.raises(DataError, match=r"train\.jsonl:4: picture"):
            batches.next().check()


def test_the_time_that_training_stands_still_for_its_samples_is_measured() -> None:
    gate = threading.Event()

    def plan(step: int) -> list[list[int]]:
        gate.wait()
        return [[step]]

    batches = BatchesAhead(Numbered(), InProcess(), plan, collate, range(1))
    with batches.running():
        threading.Timer(0.5, gate.set).start()
        assert batches.next().seconds_waited > 0.02


def test_only_a_few_samples_are_prepared_in_advance(start: Start) -> None:
    taken: list[int] = []

    def indices() -> Iterator[int]:
        for index in count():
            taken.append(index)
            yield index % 40

    samples = start(2).load(Numbered(), indices())
    for _ in range(30):
        next(samples)
    assert len(taken) <= 30 + 2 * 4


def test_no_more_steps_are_prepared_than_may_wait(start: Start) -> None:
    planned: set[int] = set()

    def plan(step: int) -> list[list[int]]:
        planned.add(step)
        return [[step % 40] * 50]

    batches = BatchesAhead(Numbered(), start(1), plan, collate, range(10_000))
    with batches.running():
        batches.next()
        time.sleep(0.2)
    assert max(planned) <= 4


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_signals_to_a_whole_process_group_do_not_end_a_worker_and_closing_does() -> None:
    workers = Workers(4)
    samples = workers.load(Numbered(), iter(range(40)))
    for pid in workers.pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert numbers(samples) == list(range(40))
    pids = workers.pids
    workers.close()
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_outlives_a_signal_from_its_very_first_moment(number: signal.Signals, start: Start) -> None:
    for _ in range(5):
        workers = start(1)
        assert isinstance(workers, Workers)
        os.kill(workers.pids[0], number)
        assert numbers(workers.load(Numbered(), iter(range(2)))) == [0, 1]


def test_starting_workers_leaves_the_signals_of_the_training_process_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    workers = Workers(1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    workers.close()


def test_no_worker_is_left_when_the_training_process_is_killed() -> None:
    reader, writer = os.pipe()
    if (parent := os.fork()) == 0:
        try:
            workers = Workers(2)  # kept: without it they would end by themselves
            os.write(writer, " ".join(map(str, workers.pids)).encode())
            signal.pause()
        finally:
            os._exit(1)
    pids = [int(word) for word in os.read(reader, 100).split()]
    were_running = [is_running(pid) for pid in pids]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert were_running == [True, True]
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.01)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("cpus", "ranks", "expected"),
    [
        pytest.param(1, 1, 0, id="one core is the rank's own"),
        pytest.param(2, 2, 0, id="a core for each rank"),
        pytest.param(2, 1, 1, id="one core to spare"),
        pytest.param(16, 1, 8, id="no more than a GPU needs"),
        pytest.param(96, 8, 8, id="a machine of eight GPUs"),
        pytest.param(40, 8, 4, id="a machine of eight older GPUs"),
        pytest.param(4, 8, 0, id="more ranks than cores"),
    ],
)
def test_the_cores_that_are_left_prepare_samples(cpus: int, ranks: int, expected: int) -> None:
    assert choose_num_workers({}, cpus=cpus, ranks=ranks) == expected


def test_the_number_of_workers_can_be_set_in_the_environment_of_a_job() -> None:
    assert not VARIABLE.startswith(("PET_", "PHITUNE_")), "those names are refused in spec.env"
    assert choose_num_workers({"DATA_WORKERS": "0"}, cpus=16, ranks=1) == 0
    assert choose_num_workers({"DATA_WORKERS": "12"}, cpus=1, ranks=1) == 12
    with pytest.raises(UserError, match="DATA_WORKERS='two' in the environment: a whole number"):
        choose_num_workers({"DATA_WORKERS": "two"}, cpus=1, ranks=1)
