"""No gang sits on half of its nodes, and two that each need the whole cluster do not wait for each other."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.operator_view import NOON, PREPARED, condition, gang, observed, pod
from phitune_operator.kinds import Key
from phitune_operator.observed import Delete
from phitune_operator.plan import plan
from phitune_operator.pods import PodView, view
from phitune_operator.policies import restart
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.policies.half_placed import apart, how_it_waited, waits_for_nodes
from phitune_operator.stopwatch import Stopwatch

KEY = Key("team", "digits")
GRACE, TICK = timedelta(minutes=1), timedelta(seconds=5)


@cache
def placed(index: int, seconds_ago: float = 600) -> PodView:
    """A pod that got its node so many seconds ago."""
    since = (NOON - timedelta(seconds=seconds_ago)).isoformat()
    ready = {"type": "Ready", "status": "True"}
    return pod(
        index, conditions=[ready, {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]
    )


@cache
def refused(index: int, seconds_ago: float = 600) -> PodView:
    """A pod that no node takes, for so many seconds."""
    since = (NOON - timedelta(seconds=seconds_ago)).isoformat()
    why = {"type": "PodScheduled", "status": "False", "message": "no node", "lastTransitionTime": since}
    return replace(pod(index, phase="Pending", conditions=[why]), node="")


@pytest.mark.parametrize(
    ("pods", "pool", "has_to_end"),
    [
        pytest.param((placed(0), refused(1)), "", True, id="half of it waits"),
        pytest.param((refused(0), refused(1)), "", False, id="holds nothing"),
        pytest.param((refused(0), refused(1)), "a100", True, id="holds nothing, but a pool is to grow"),
        pytest.param((placed(0), refused(1)), "a100", True, id="a pool grows node by node"),
        pytest.param(
            (placed(0), replace(refused(1), unschedulable_since=None)), "", False, id="being cleared"
        ),
        pytest.param((placed(0), placed(1)), "", False, id="whole"),
        pytest.param((pod(0, code=1), refused(1)), "", False, id="a pod has ended: that is the cause"),
    ],
)
def test_gang_waits_in_a_way_that_has_to_end(pods: tuple[PodView, ...], pool: str, has_to_end: bool) -> None:
    assert waits_for_nodes(pods, num_pods=2, refused="", pool=pool) == has_to_end


@pytest.mark.parametrize(("why", "has_to_end"), [("exceeded quota", True), ("", False)])
def test_gang_whose_other_half_is_not_admitted_holds_nodes_in_vain(why: str, has_to_end: bool) -> None:
    assert waits_for_nodes([placed(0)], num_pods=2, refused=why, pool="") == has_to_end


@pytest.mark.parametrize(
    ("pods", "pool", "reason", "said"),
    [
        ((placed(0), refused(1)), "", "HalfPlaced", "only 1 of 2 pods found a node within 1m00s"),
        ((placed(0), refused(1)), "a100", "HalfPlaced", "only 1 of 2 pods found a node within 1m00s"),
        ((refused(0), refused(1)), "a100", "NoNewNodes", "pool a100 had no node for any of 2 pods"),
    ],
)
def test_gang_is_taken_back_when_its_time_is_up(
    pods: tuple[PodView, ...], pool: str, reason: str, said: str
) -> None:
    def after(waited: timedelta | None) -> End | None:
        return how_it_waited(pods, num_pods=2, refused="", pool=pool, waited=waited, limit=GRACE)

    assert after(None) is None
    assert after(GRACE - TICK) is None
    end = after(GRACE)
    assert end is not None
    assert (end.verdict, end.reason) == (Verdict.DISRUPTED, reason)
    assert said in end.message


@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_of_the_cluster_that_is_wrong_by_an_hour_neither_hurries_nor_delays_it(hours: int) -> None:
    skew = hours * 3600.0
    pods = (placed(0, skew), refused(1, skew))
    assert waits_for_nodes(pods, num_pods=2, refused="", pool="")
    own = iter([100.0, 100.0, 159.0, 161.0])
    watch = Stopwatch(clock=lambda: next(own))
    waited = [watch.measure(KEY, "attempt 1") for _ in range(3)]
    ends = [
        how_it_waited(pods, num_pods=2, refused="", pool="", waited=one, limit=GRACE) is not None
        for one in waited
    ]
    assert ends == [False, False, True]


def test_wait_begins_anew_with_every_attempt_and_after_every_look_without_it() -> None:
    own = iter(range(0, 1000, 40))
    watch = Stopwatch(clock=lambda: float(next(own)))
    for state in ("attempt 1", "attempt 2"):
        first, second = watch.measure(KEY, state), watch.measure(KEY, state)
        assert first is not None
        assert second is not None
        assert first < second <= timedelta(seconds=80)
    assert watch.measure(KEY, None) is None
    assert watch.measure(KEY, "attempt 2") == timedelta(seconds=40)


def test_pod_that_nodes_are_being_cleared_for_does_not_wait_in_vain() -> None:
    why = {"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-01-01T11:00:00Z"}
    status = {"phase": "Pending", "conditions": [why], "nominatedNodeName": "node-1"}
    assert view({"metadata": {"name": "a", "uid": "b"}, "status": status}).unschedulable_since is None
    del status["nominatedNodeName"]
    assert view({"metadata": {"name": "a", "uid": "b"}, "status": status}).unschedulable_since is not None


def test_taking_it_back_frees_the_nodes_and_counts_against_nothing() -> None:
    volume = {"metadata": {"name": "digits-workspace"}}
    pods = (placed(0), refused(1))
    todo = plan(observed(status=PREPARED, claim=volume, gangs=(gang(),), pods=pods, waited=GRACE))
    assert [action.name for action in todo.actions if isinstance(action, Delete)] == ["digits-1"]
    assert condition(todo.status, "Restarting")["reason"] == "HalfPlaced"
    assert todo.status.get("restartsCounted", 0) == 0


@dataclass
class Gang:
    """A job's gang of two pods, as far as nodes are concerned."""

    uid: str
    attempt: int = 0
    back_at: datetime = NOON
    placed: set[int] = field(default_factory=set)
    half_since: datetime | None = None
    is_there: bool = False

    def pods(self) -> tuple[PodView, ...]:
        return tuple(placed(index) if index in self.placed else refused(index) for index in range(2))

    def waited(self, now: datetime) -> timedelta | None:
        """As the operator measures it."""
        if not waits_for_nodes(self.pods(), num_pods=2, refused="", pool=""):
            self.half_since = None
            return None
        self.half_since = self.half_since or now
        return now - self.half_since


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), uids=st.lists(st.uuids(), min_size=2, max_size=4, unique=True))
def test_of_gangs_that_each_need_every_node_one_gets_them_all(seed: int, uids: list[Any]) -> None:
    choice = random.Random(seed)
    gangs = [Gang(str(uid)) for uid in uids]
    now = NOON
    while now - NOON < timedelta(hours=12):
        now += TICK
        for one in gangs:
            if not one.is_there and now >= one.back_at:
                one.is_there, one.attempt = True, one.attempt + 1
        wanting = [one for one in gangs if one.is_there]
        for node in range(2):
            if not any(node in one.placed for one in gangs) and wanting:
                choice.choice(wanting).placed.add(node)
        if any(len(one.placed) == 2 for one in gangs):
            return
        for one in wanting:
            waited = one.waited(now)
            if how_it_waited(one.pods(), num_pods=2, refused="", pool="", waited=waited, limit=GRACE):
                pause = restart.pause_after_disruption(in_a_row=one.attempt)
                one.back_at = now + apart(pause, uid=one.uid, attempt=one.attempt)
                one.placed, one.is_there, one.half_since = set(), False, None
    raise AssertionError("they still wait for each other")


def test_pauses_of_two_jobs_differ_and_grow() -> None:
    pauses = [
        [apart(restart.pause_after_disruption(in_a_row=n), uid=uid, attempt=n) for n in range(1, 8)]
        for uid in "ab"
    ]
    assert all(one != other for one, other in zip(*pauses, strict=True))
    assert pauses[0][-1] > 20 * pauses[0][0]
