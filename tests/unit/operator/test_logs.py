"""One job can be followed through the log by grep; a fault of the operator's own is said on the job, too."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.jobs import finetunejob
from harness.no_ranks import NobodyToAsk
from harness.simulated_cluster import SimulatedCluster
from phitune_operator import reconcile
from phitune_operator.kinds import EVENT, PYTORCHJOB, Key, Kind, Object, name_of, uid_of
from phitune_operator.kube import ApiError
from phitune_operator.logs import LOGGER, JsonFormatter
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import Observed, Plan, Settings
from phitune_operator.plan import plan
from phitune_operator.queue import WorkQueue
from phitune_operator.reconcile import Reconciler
from phitune_operator.status import condition_of
from phitune_operator.store import Store

KEYS = [Key("team", "digits"), Key("team", "letters")]


class Operator:
    """An operator of two jobs, and what it logs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.store, self.metrics = SimulatedCluster(), Store(), Metrics()
        for key in KEYS:
            job = finetunejob(key.name)
            job["metadata"]["namespace"] = key.namespace
            self.cluster.put_new(job)
        self.written = io.StringIO()
        handler = logging.StreamHandler(self.written)
        handler.setFormatter(JsonFormatter())
        monkeypatch.setattr(LOGGER, "handlers", [handler])
        cluster: Any = self.cluster
        observer = Observer(cluster, self.store, NobodyToAsk(), Settings(trainer_image="i"))  # type: ignore[arg-type]
        clock = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
        self.reconciler = Reconciler(cluster, self.store, WorkQueue(), observer, self.metrics, clock=clock)

    async def look(self) -> None:
        for kind, told in self.cluster.told.items():
            for obj, deleted in told:
                self.store.absorb(kind, obj, deleted=deleted)
            told.clear()
        for key in KEYS:
            await self.reconciler.look(key)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.written.getvalue().splitlines()]

    def accepted(self, name: str) -> Any:
        return condition_of(self.cluster.job(name)["status"], "Accepted")


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    before = LOGGER.level
    LOGGER.setLevel(logging.DEBUG)  # not by monkeypatch: loggers remember what is enabled
    yield Operator(monkeypatch)
    LOGGER.setLevel(before)


def test_every_line_about_a_job_names_it_and_its_attempt(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        for _ in range(6):
            await operator.look()
            while moves := operator.cluster.moves():
                moves[0][1]()
        monkeypatch.setattr(operator.cluster, "merge", refuse)
        for gang in operator.cluster.of_kind(PYTORCHJOB):
            operator.cluster.remove(gang)
        await operator.look()

    async def refuse(*_: Any, **__: Any) -> Object:
        raise ApiError(500, "InternalError", "etcd is away")

    asyncio.run(run())
    lines = operator.lines()
    messages = [line["message"] for line in lines if line["job"] == "digits"]
    assert "phase (new) -> Preparing" in messages
    assert "created PyTorchJob digits-1" in messages
    assert any("etcd is away (500 InternalError)" in message for message in messages)
    assert all({"time", "level", "namespace", "job", "message"} <= set(line) for line in lines)
    has_begun = dict.fromkeys((key.name for key in KEYS), False)
    for line in lines:
        has_begun[line["job"]] |= "attempt" in line
        assert ("attempt" in line) == has_begun[line["job"]], line
    assert set(has_begun.values()) == {True}


def test_what_is_decided_is_told_once_though_the_write_that_follows_has_to_be_tried_again(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, refused = operator.cluster.create, []

    async def refuse(kind: Kind, obj: Object) -> Object:
        if kind == PYTORCHJOB and name_of(obj) not in refused:
            refused.append(name_of(obj))
            raise ApiError(500, "InternalError", "etcd is away")
        return await create(kind, obj)

    async def run() -> None:
        monkeypatch.setattr(operator.cluster, "create", refuse)
        for _ in range(6):
            await operator.look()
            while moves := operator.cluster.moves():
                moves[0][1]()

    asyncio.run(run())
    assert refused == ["digits-1", "letters-1"]
    assert {name_of(gang) for gang in operator.cluster.of_kind(PYTORCHJOB)} == set(refused)
    told = [event for event in operator.cluster.of_kind(EVENT) if event["reason"] == "GangCreated"]
    assert sorted(event["involvedObject"]["name"] for event in told) == ["digits", "letters"]
    assert {event["count"] for event in told} == {1}


def test_fault_of_the_operator_is_a_condition_an_event_and_a_count_until_it_is_past(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seen: Observed) -> Plan:
        if seen.key.name == "digits":
            raise KeyError("nobody thought of this")
        return plan(seen)

    async def run() -> None:
        await operator.look()
        monkeypatch.setattr(reconcile, "plan", broken)
        await operator.look()
        written = operator.cluster.num_writes
        await operator.look()
        assert operator.cluster.num_writes == written, "it is said once, however often it is tried"

    asyncio.run(run())
    accepted = operator.accepted("digits")
    assert (accepted["status"], accepted["reason"]) == ("False", "OperatorError")
    assert "KeyError: 'nobody thought of this'" in accepted["message"]
    assert operator.accepted("letters")["status"] == "True", "other jobs are served"
    events = [event for event in operator.cluster.of_kind(EVENT) if event["reason"] == "OperatorError"]
    assert [event["involvedObject"]["uid"] for event in events] == [uid_of(operator.cluster.job("digits"))]
    bugs = 'phitune_operator_reconcile_seconds_count{outcome="bug"} 2.0'
    assert bugs in operator.metrics.text().decode()
    (line, _) = [line for line in operator.lines() if "traceback" in line]
    assert (line["job"], "in broken" in line["traceback"]) == ("digits", True)

    monkeypatch.setattr(reconcile, "plan", plan)
    asyncio.run(operator.look())
    assert operator.accepted("digits")["status"] == "True"


def test_fault_of_the_operator_that_cannot_be_said_on_the_job_ends_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seen: Observed) -> Plan:
        raise KeyError

    job = operator.cluster.job("digits")
    operator.cluster.change(job, lambda obj: obj.update(status={"conditions": ["of another time"]}))
    monkeypatch.setattr(reconcile, "plan", broken)
    asyncio.run(operator.look())
    assert operator.accepted("letters")["reason"] == "OperatorError"
    assert "this could not be said on the job" in [line["message"] for line in operator.lines()]
