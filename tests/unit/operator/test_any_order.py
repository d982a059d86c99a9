"""Any order of events, any crash, any replay: the job ends in the same place, and does no harm on the way.

The real observe, plan and apply run against a cluster in memory. Chance chooses what happens next: a watch
delivers, a controller moves, the operator looks (or is killed at any of its writes and starts with empty
memory), a pod fails or is deleted, somebody suspends the job or deletes its gang.
"""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from harness.jobs import finetunejob
from harness.simulated_cluster import OperatorKilled, SimulatedCluster
from phitune_operator import names
from phitune_operator.attempts import CREATING
from phitune_operator.backends import is_suspended
from phitune_operator.kinds import (
    CHILDREN,
    CLAIM,
    CONFIG_MAP,
    FINETUNEJOB,
    GANGS,
    JOB,
    LOCAL_QUEUE,
    NEEDS,
    POD,
    PYTORCHJOB,
    TRAINJOB,
    WATCHED,
    Key,
    Kind,
    Object,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.kube import ApiError
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import Settings
from phitune_operator.queue import WorkQueue
from phitune_operator.reconcile import Reconciler
from phitune_operator.reports import ProgressReport, read_progress
from phitune_operator.status import condition_of
from phitune_operator.store import Store

KEY = Key("team", "digits")
PROGRESS = {
    "attempt": 1,
    "state": "training",
    "step": 3,
    "totalSteps": 10,
    "percent": 30.0,
    "updatedAt": "2026-01-01T12:00:00Z",
}
NODES = 2


class RankZero:
    """A rank 0 that always answers, and has had nothing new to tell for an hour once its gang hangs."""

    def __init__(self) -> None:
        self.hung: set[str] = set()
        """Uids of the pods."""

    async def poll(
        self, key: Key, uid: str, address: str, *, at_most_every: float
    ) -> tuple[ProgressReport, timedelta]:
        report = read_progress(json.dumps(PROGRESS))
        assert report is not None
        return report, timedelta(hours=1 if uid in self.hung else 0)

    num_asked = 0

    def due_in(self, _: Key, *, every: float) -> float:
        return every

    def forget(self, key: Key) -> None:
        pass


class World:
    """A job, its cluster, and an operator that can be killed."""

    def __init__(
        self,
        *,
        restart_limit: int = 1000,
        retain: bool = True,
        backend: Kind = PYTORCHJOB,
        is_queued: bool = False,
        gang_scheduling: bool = False,
    ) -> None:
        self.cluster = SimulatedCluster()
        self.settings = Settings(
            trainer_image="trainer:1", backend=backend.kind, gang_scheduling=gang_scheduling
        )
        self.backend = backend
        job = finetunejob(
            KEY.name, {"runPolicy": {"restartLimit": restart_limit}, "storage": {"retain": retain}}
        )
        if is_queued:
            job["spec"]["queueName"] = "team"
            self.cluster.objects[LOCAL_QUEUE, KEY.namespace, "team"] = {"metadata": {"name": "team"}}
        job["metadata"]["namespace"] = KEY.namespace
        self.cluster.put_new(job)
        self.faults = 0
        self.rank_zero = RankZero()
        self.start_operator()

    def start_operator(self) -> None:
        """Begin with empty memory and a LIST of everything."""
        self.store = Store()
        for kind in WATCHED:
            self.cluster.told[kind].clear()
            for obj in self.cluster.of_kind(kind):
                self.store.absorb(kind, obj)
        kube = self.cluster
        observer = Observer(kube, self.store, self.rank_zero, self.settings)  # type: ignore[arg-type]
        self.operator = Reconciler(
            kube,  # type: ignore[arg-type]
            self.store,
            WorkQueue(),
            observer,
            Metrics(),
            clock=lambda: self.cluster.now,
        )

    async def look(self, *, kill_at: int | None = None) -> None:
        """One pass of the operator, which may not survive its n-th write."""
        self.cluster.kill_at = kill_at
        try:
            await self.operator.reconcile(KEY)
        except OperatorKilled:
            self.start_operator()
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
        finally:
            self.cluster.kill_at = None
        self.check()

    def deliver(self, index: int) -> None:
        """The watch of some kind tells its next change."""
        waiting = [kind for kind in WATCHED if self.cluster.told[kind]]
        if waiting:
            kind = waiting[index % len(waiting)]
            obj, deleted = self.cluster.told[kind].pop(0)
            self.store.absorb(kind, obj, deleted=deleted)

    def move(self, index: int) -> None:
        """Some controller does one thing."""
        if moves := self.cluster.moves():
            moves[index % len(moves)][1]()
        self.check()

    def crash_pod(self, index: int) -> None:
        if pods := self.cluster.running_trainers():
            self.faults += 1
            self.cluster.end(pods[index % len(pods)], 1)

    def hang_gang(self, index: int) -> None:
        for pod in self.cluster.running_trainers():
            if names.is_rank_zero(labels_of(pod)) and uid_of(pod) not in self.rank_zero.hung:
                self.faults += 1
                self.rank_zero.hung.add(uid_of(pod))

    def delete_pod(self, index: int) -> None:
        if pods := self.cluster.running_trainers():
            self.cluster.remove(pods[index % len(pods)])

    def delete_gang(self, index: int) -> None:
        """By hand; but not before the operator has seen it, for then it makes it again under that name."""
        running = condition_of(self.status, names.CONDITION_RUNNING)
        if (gangs := self.cluster.of_kind(self.backend)) and running.get("reason") != CREATING:
            self.cluster.remove(gangs[index % len(gangs)])

    def preempt(self, index: int) -> None:
        """By Kueue, which has no say in a gang without a queue."""
        for gang in self.cluster.of_kind(self.backend):
            if names.LABEL_QUEUE in labels_of(gang) and not gang.get("status") and not is_suspended(gang):
                self.cluster.suspend(gang, True)

    def finish_pod(self, index: int) -> None:
        if pods := self.cluster.running_trainers():
            self.cluster.end(pods[index % len(pods)], 0)

    def suspend(self, value: bool) -> None:
        job = self.cluster.job(KEY.name)
        if not self.is_over:
            self.cluster.edit(job, lambda spec: spec["runPolicy"].update(suspend=value))

    def wait(self, seconds: int) -> None:
        self.cluster.now += timedelta(seconds=seconds)

    async def flow(self) -> None:
        """A quiet moment: everything told, one look, everything moved."""
        while any(self.cluster.told.values()):
            self.deliver(0)
        await self.look()
        while self.cluster.moves():
            self.move(0)

    async def step(self, what: str, choice: int) -> None:
        """One thing happens."""
        if what == "look":
            await self.look()
        elif what == "killed_look":
            await self.look(kill_at=choice % 4)
        elif what == "start_operator":
            self.start_operator()
        elif what == "suspend":
            self.suspend(choice < 3)
        else:
            getattr(self, what)(choice)

    async def settle(self, choice: random.Random) -> None:
        """Let everything that can happen happen, in any order, until the job is over and nothing moves."""
        self.suspend(False)
        for _ in range(5000):
            if self.is_over and not self.cluster.moves() and not any(self.cluster.told.values()):
                await self.look()
                return
            await self.step(choice.choice(QUIET), choice.randrange(8))
        raise AssertionError(f"still not over: {self.status}")

    @property
    def status(self) -> Object:
        for job in self.cluster.of_kind(FINETUNEJOB):
            return dict(job.get("status", {}))
        return {}

    @property
    def is_over(self) -> bool:
        return self.status.get("phase") in ("Succeeded", "Failed")

    def check(self) -> None:
        """What must hold at every moment."""
        attempts = {labels_of(pod)[names.LABEL_ATTEMPT] for pod in self.cluster.live_trainers()}
        assert len(attempts) <= 1, f"two gangs live at once: {attempts}"
        made = self.cluster.gangs_made
        assert len(made) == len(set(made)), f"an attempt was used twice: {made}"
        assert self.status.get("restartsCounted", 0) <= self.faults, "a restart was counted that was no fault"
        accepted = condition_of(self.status, names.CONDITION_ACCEPTED)
        assert accepted.get("reason") != "QueueNotFound", (
            "the queue of a job that has one is there all the time"
        )
        numbers = [int(name.rpartition("-")[2]) for name in made]
        assert numbers == sorted(numbers)


# A history is a seed: shrinking would not make it shorter, so a failure just names it.
QUIET = ["deliver", "deliver", "move", "move", "look", "finish_pod", "wait"]
DISTURBED = [
    *["deliver"] * 6,
    *["move"] * 6,
    *["look"] * 5,
    *["wait"] * 3,
    *["crash_pod", "hang_gang", "delete_pod", "delete_gang", "finish_pod", "suspend", "preempt"],
    *["killed_look", "start_operator"],
]


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    num_steps=st.integers(0, 400),
    seed=st.integers(0, 2**32),
    backend=st.sampled_from(GANGS),
    is_queued=st.booleans(),
    gang_scheduling=st.booleans(),
)
@example(num_steps=9, seed=78566, backend=PYTORCHJOB, is_queued=False, gang_scheduling=False)
def test_every_history_ends_with_the_job_done_once(
    num_steps: int, seed: int, backend: Kind, is_queued: bool, gang_scheduling: bool
) -> None:
    choice = random.Random(seed)

    async def run() -> World:
        world = World(backend=backend, is_queued=is_queued, gang_scheduling=gang_scheduling)
        for _ in range(num_steps):
            await world.step(choice.choice(DISTURBED), choice.randrange(8))
        await world.settle(choice)
        return world

    world = asyncio.run(run())
    assert world.status["phase"] == "Succeeded"
    assert [name_of(claim) for claim in world.cluster.of_kind(CLAIM)] == ["digits-workspace"]
    assert [name_of(config) for config in world.cluster.of_kind(CONFIG_MAP)] == ["digits-config"]
    prepares = [job for job in world.cluster.of_kind(JOB) if name_of(job) == "digits-prepare"]
    assert len(prepares) <= 1, "none is left if a suspension came as it was done"
    left = [name_of(gang) for gang in world.cluster.of_kind(world.backend)]
    assert left in ([], [f"digits-{world.status['attempt']}"]), (
        "none is left if it was deleted as it was done"
    )
    needs = [name_of(need) for kind in NEEDS for need in world.cluster.of_kind(kind)]
    assert set(needs) <= {f"digits-{world.status['attempt']}"}


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(num_steps=st.integers(0, 60), seed=st.integers(0, 2**32), retain=st.booleans())
@example(num_steps=30, seed=1382987043, retain=True)
def test_job_that_is_deleted_at_any_moment_leaves_its_volume_alone(
    num_steps: int, seed: int, retain: bool
) -> None:
    choice = random.Random(seed)

    async def run() -> World:
        world = World(retain=retain)
        for _ in range(num_steps):
            await world.step(choice.choice(DISTURBED), choice.randrange(8))
        world.cluster.remove(world.cluster.job(KEY.name))
        while world.cluster.moves() or any(world.cluster.told.values()):
            await world.step(choice.choice([*QUIET, "killed_look"]), choice.randrange(8))
        return world

    world = asyncio.run(run())
    left = {kind for kind, _, _ in world.cluster.objects if kind in CHILDREN}
    assert left <= ({CLAIM} if retain else set())
    assert world.store.jobs() == []


@pytest.mark.parametrize("backend", [PYTORCHJOB, TRAINJOB], ids=str)
@pytest.mark.parametrize("kill_at", range(14))
def test_operator_killed_at_each_write_of_a_first_start_makes_nothing_twice(
    kill_at: int, backend: Kind
) -> None:
    async def run() -> World:
        world = World(backend=backend)
        for _ in range(6):
            await world.look(kill_at=kill_at)
            await world.flow()
        await world.settle(random.Random(0))
        return world

    world = asyncio.run(run())
    assert world.cluster.gangs_made == ["digits-1"]
    assert world.status["restarts"] == 0


def test_a_job_that_is_done_is_never_written_again() -> None:
    async def run() -> World:
        world = World()
        await world.settle(random.Random(0))
        before = world.cluster.num_writes
        for _ in range(3):
            world.start_operator()
            await world.look()
        assert world.cluster.num_writes == before
        return world

    asyncio.run(run())


def test_each_fault_is_counted_once_and_the_budget_ends_the_job() -> None:
    async def run() -> World:
        world = World(restart_limit=2)
        for _ in range(400):
            while any(world.cluster.told.values()):
                world.deliver(0)
            await world.look()
            if world.is_over:
                return world
            while world.cluster.moves():
                world.move(0)
            for _ in world.cluster.running_trainers()[:1]:
                world.crash_pod(0)
            world.wait(10)
        raise AssertionError(world.status)

    world = asyncio.run(run())
    assert world.status["phase"] == "Failed"
    assert world.status["restartsCounted"] == 2
    assert world.cluster.gangs_made == ["digits-1", "digits-2", "digits-3"]


def test_gang_that_hangs_is_replaced_and_its_restart_is_counted() -> None:
    async def run() -> World:
        world = World()
        while not world.cluster.running_trainers():
            await world.flow()
        world.hang_gang(0)
        for _ in range(8):
            await world.flow()
            world.wait(10)
        return world

    world = asyncio.run(run())
    assert world.cluster.gangs_made == ["digits-1", "digits-2"]
    assert (world.status["restartsCounted"], world.status["failure"]["reason"]) == (1, "Stalled")


@pytest.mark.parametrize("lost", [PYTORCHJOB, POD], ids=str)
def test_restart_does_not_wait_for_the_end_of_what_no_watch_has_told_of(lost: Kind) -> None:
    async def run() -> World:
        world = World()
        while not world.cluster.running_trainers():
            await world.flow()
        world.crash_pod(0)
        for _ in range(8):
            for kind in WATCHED:
                told = world.cluster.told[kind]
                told[:] = [(obj, deleted) for obj, deleted in told if kind != lost or not deleted]
            await world.flow()
            world.wait(10)
        return world

    assert asyncio.run(run()).cluster.gangs_made == ["digits-1", "digits-2"]


def test_children_of_every_kind_are_watched() -> None:
    assert {FINETUNEJOB, *CHILDREN} == set(WATCHED)
