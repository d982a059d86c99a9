"""Two operators never work at once, whatever delays and ends they meet, and one always comes to work."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phitune_operator import leader
from phitune_operator.kinds import Kind, Object
from phitune_operator.leader import (
    EVERY,
    FREE_AFTER,
    LOOK,
    STOP_AFTER,
    Candidate,
    Leadership,
    LeadershipLostError,
    holder_of,
)

NAMES = ("one", "two", "three")
FAILOVER = 20.0
"""Seconds that are promised, with those in which the next one reads the cluster."""


class Contest:
    """A Lease as the API server keeps it, and the operators that want it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.version = 0
        self.holder = ""
        self.candidates = {name: Candidate(name) for name in NAMES}
        self.read: dict[str, tuple[float, int] | None] = dict.fromkeys(NAMES)
        """When an operator that is about to write has read the Lease, and which version."""

    def lease(self) -> dict[str, Any] | None:
        if self.version == 0:
            return None
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": {"holderIdentity": self.holder}}

    def look(self, name: str) -> None:
        wants = self.candidates[name].wants(self.lease(), self.now)
        self.read[name] = (self.now, self.version) if wants else None

    def write(self, name: str) -> None:
        """The API server takes a write only over the version that was read."""
        known, self.read[name] = self.read[name], None
        if known is not None and known[1] == self.version:
            self.version += 1
            self.holder = name
            self.candidates[name].has_written(known[0])

    def die(self, name: str) -> None:
        """The process ends, and the kubelet starts another one in the same pod."""
        self.candidates[name] = Candidate(name)
        self.read[name] = None

    def working(self) -> list[str]:
        return [name for name, candidate in self.candidates.items() if candidate.may_work(self.now)]


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["look", "look", "look", "write", "write", "write", "die"]),
        st.floats(0, 6),
    ),
    max_size=80,
)


@given(MOMENTS)
def test_two_never_work_at_once(moments: list[tuple[str, str, float]]) -> None:
    contest = Contest()
    for name, what, seconds in moments:
        contest.now += seconds
        assert len(contest.working()) <= 1
        getattr(contest, what)(name)
        assert len(contest.working()) <= 1


@given(MOMENTS, st.sampled_from(NAMES))
def test_whoever_is_left_alone_works_in_time(moments: list[tuple[str, str, float]], left: str) -> None:
    contest = Contest()
    for name, what, seconds in moments:
        contest.now += seconds
        getattr(contest, what)(name)
    alone_since = contest.now
    while left not in contest.working():
        contest.look(left)
        contest.write(left)
        contest.now += LOOK
    assert contest.now - alone_since <= FREE_AFTER + 2 * LOOK < FAILOVER


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    contest = Contest()
    contest.look("one")
    contest.write("one")
    assert holder_of(contest.lease() or {}) == "one"
    contest.look("two")
    assert contest.read["two"] is None
    contest.holder, contest.version = "", contest.version + 1
    contest.look("two")
    contest.write("two")
    assert contest.holder == "two"


def test_a_holder_stops_before_others_may_begin() -> None:
    assert 2 * EVERY < STOP_AFTER < FREE_AFTER


class SlowServer:
    """An API server that holds a Lease and takes so many seconds for each answer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lease: Object | None = None

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        await asyncio.sleep(self.seconds)
        return self.lease

    async def create(self, kind: Kind, obj: Object) -> None:
        await asyncio.sleep(self.seconds)
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": "1"}}

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> None:
        await asyncio.sleep(self.seconds)
        version = str(int(patch["metadata"]["resourceVersion"]) + 1)
        self.lease = {"metadata": {"resourceVersion": version}, "spec": patch["spec"]}


class Skipping(selectors.DefaultSelector):
    """Time that is only counted: whoever sleeps wakes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def why_lost(seconds: float, monkeypatch: pytest.MonkeyPatch, *, busy: float = 0.0) -> str:
    """Why a holder ends within ten minutes in which each answer takes so many seconds; empty: it works on.

    `busy`: seconds for which, once, the process gets to nothing.
    """
    clock = Skipping()
    loop = asyncio.SelectorEventLoop(clock)
    monkeypatch.setattr(loop, "time", lambda: clock.now)
    monkeypatch.setattr(leader.time, "monotonic", lambda: clock.now)
    server = SlowServer(0)
    me = Leadership(server, "team", "lease", "me")  # type: ignore[arg-type]

    def be_busy() -> None:
        clock.now += busy

    async def hold() -> str:
        await me.acquire(lambda: None)
        server.seconds = seconds
        loop.call_later(60, be_busy)
        try:
            async with asyncio.timeout(600):
                await me.keep()
        except TimeoutError:
            return ""
        except LeadershipLostError as lost:
            return str(lost)
        raise AssertionError("it stopped without a reason")

    try:
        return loop.run_until_complete(hold())
    finally:
        loop.close()
        monkeypatch.undo()


@pytest.mark.parametrize(("seconds", "keeps"), [(0.1, True), (2.0, True), (6.0, False)])
def test_a_holder_bears_an_api_server_that_is_slow_but_not_one_that_hangs(
    seconds: float, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (why_lost(seconds, monkeypatch) == "") is keeps


def test_a_holder_that_did_not_get_to_it_blames_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_lost(0.1, monkeypatch, busy=5.0) == ""
    assert "want of processor time" in why_lost(0.1, monkeypatch, busy=15.0)
