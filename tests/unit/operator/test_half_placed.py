"""No gang sits on half of its nodes, and two that each need the whole cluster do not wait for each other."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.operator_view import NOON, PREPARED, condition, gang, observed, pod
from phitune_operator.observed import Delete
from phitune_operator.plan import plan
from phitune_operator.pods import PodView, view
from phitune_operator.policies import restart
from phitune_operator.policies.gang_end import Verdict
from phitune_operator.policies.half_placed import apart, how_it_waits

GRACE, TICK = timedelta(minutes=1), timedelta(seconds=5)


def placed(index: int, seconds_ago: float = 600) -> PodView:
    """A pod that got its node so many seconds ago."""
    since = (NOON - timedelta(seconds=seconds_ago)).isoformat()
    ready = {"type": "Ready", "status": "True"}
    return pod(
        index, conditions=[ready, {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]
    )


def refused(index: int, seconds_ago: float) -> PodView:
    """A pod that no node takes, for so many seconds."""
    since = (NOON - timedelta(seconds=seconds_ago)).isoformat()
    why = {"type": "PodScheduled", "status": "False", "message": "no node", "lastTransitionTime": since}
    return replace(pod(index, phase="Pending", conditions=[why]), node="")


@pytest.mark.parametrize(
    ("pods", "is_taken_back"),
    [
        pytest.param((placed(0), refused(1, 61)), True, id="half of it waits"),
        pytest.param((placed(0), refused(1, 59)), False, id="not long enough"),
        pytest.param((placed(0, 2), refused(1, 600)), False, id="nodes come one after the other"),
        pytest.param((placed(0, 61), refused(1, 600)), True, id="nodes came, but not enough of them"),
        pytest.param(
            (placed(0), replace(refused(1, 600), unschedulable_since=None)), False, id="being cleared"
        ),
        pytest.param((refused(0, 600), refused(1, 600)), False, id="holds nothing: an autoscaler may help"),
        pytest.param((placed(0), placed(1)), False, id="whole"),
        pytest.param((pod(0, code=1), refused(1, 61)), False, id="a pod has ended: that is the cause"),
    ],
)
def test_gang_is_taken_back(pods: tuple[PodView, ...], is_taken_back: bool) -> None:
    end = how_it_waits(pods, num_pods=2, refused="", now=NOON, grace=GRACE)
    assert (end is not None) == is_taken_back
    if end is not None:
        assert (end.verdict, end.reason) == (Verdict.DISRUPTED, "HalfPlaced")
        assert "only 1 of 2 pods" in end.message


@pytest.mark.parametrize(("why", "is_taken_back"), [("exceeded quota", True), ("", False)])
def test_gang_whose_other_half_is_not_admitted_is_taken_back(why: str, is_taken_back: bool) -> None:
    end = how_it_waits([placed(0)], num_pods=2, refused=why, now=NOON, grace=GRACE)
    assert (end is not None) == is_taken_back
    assert end is None or why in end.message


def test_pod_that_nodes_are_being_cleared_for_does_not_wait_in_vain() -> None:
    why = {"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-01-01T11:00:00Z"}
    status = {"phase": "Pending", "conditions": [why], "nominatedNodeName": "node-1"}
    assert view({"metadata": {"name": "a", "uid": "b"}, "status": status}).unschedulable_since is None
    del status["nominatedNodeName"]
    assert view({"metadata": {"name": "a", "uid": "b"}, "status": status}).unschedulable_since is not None


def test_taking_it_back_frees_the_nodes_and_counts_against_nothing() -> None:
    volume = {"metadata": {"name": "digits-workspace"}}
    pods = (placed(0), refused(1, 61))
    todo = plan(observed(status=PREPARED, claim=volume, gangs=(gang(),), pods=pods))
    assert [action.name for action in todo.actions if isinstance(action, Delete)] == ["digits-1"]
    assert condition(todo.status, "Restarting")["reason"] == "HalfPlaced"
    assert todo.status.get("restartsCounted", 0) == 0


@dataclass
class Gang:
    """A job's gang of two pods, as far as nodes are concerned."""

    uid: str
    attempt: int = 0
    back_at: Any = NOON
    placed: set[int] = field(default_factory=set)
    begun: Any = None

    def pods(self) -> tuple[PodView, ...]:
        ago = (NOON - self.begun).total_seconds()
        return tuple(
            placed(index, ago) if index in self.placed else refused(index, ago) for index in range(2)
        )


@given(seed=st.integers(0, 2**32), uids=st.lists(st.uuids(), min_size=2, max_size=4, unique=True))
def test_of_gangs_that_each_need_every_node_one_gets_them_all(seed: int, uids: list[Any]) -> None:
    choice = random.Random(seed)
    gangs = [Gang(str(uid)) for uid in uids]
    now = NOON
    while now - NOON < timedelta(hours=12):
        now += TICK
        for one in gangs:
            if one.begun is None and now >= one.back_at:
                one.begun, one.attempt = now, one.attempt + 1
        wanting = [one for one in gangs if one.begun is not None]
        for node in range(2):
            if not any(node in one.placed for one in gangs) and wanting:
                choice.choice(wanting).placed.add(node)
        if any(len(one.placed) == 2 for one in gangs):
            return
        for one in wanting:
            if how_it_waits(one.pods(), num_pods=2, refused="", now=now, grace=GRACE):
                pause = restart.pause_after_disruption(in_a_row=one.attempt)
                one.back_at = now + apart(pause, uid=one.uid, attempt=one.attempt)
                one.placed, one.begun = set(), None
    raise AssertionError("they still wait for each other")


def test_pauses_of_two_jobs_differ_and_grow() -> None:
    pauses = [
        [apart(restart.pause_after_disruption(in_a_row=n), uid=uid, attempt=n) for n in range(1, 8)]
        for uid in "ab"
    ]
    assert all(one != other for one, other in zip(*pauses, strict=True))
    assert pauses[0][-1] > 20 * pauses[0][0]
