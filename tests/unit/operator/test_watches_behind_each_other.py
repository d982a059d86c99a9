"""The watches tell each kind's changes in order, but know nothing of each other: pods are asked for anew."""

from __future__ import annotations

from harness.operator_view import PREPARED, gang, observed, pod
from phitune_operator.kinds import Object
from phitune_operator.observe import is_ahead_of_its_pods
from phitune_operator.pods import PodView

FAILED = {"type": "Failed", "status": "True"}


def is_ahead(*pods: PodView, conditions: list[Object]) -> bool:
    return is_ahead_of_its_pods(observed(None, PREPARED, gangs=(gang(conditions=conditions),), pods=pods))


def test_a_gang_that_failed_while_all_pods_seem_to_run_is_ahead_of_them() -> None:
    assert is_ahead(pod(0), pod(1), conditions=[FAILED])


def test_a_gang_is_not_ahead_once_a_pod_is_seen_to_end_or_to_go() -> None:
    assert not is_ahead(pod(0), pod(1, code=1), conditions=[FAILED])
    assert not is_ahead(pod(0, deletionTimestamp="2026-01-01T12:00:00Z"), pod(1), conditions=[FAILED])
    assert not is_ahead(pod(0), pod(1), conditions=[{"type": "Running", "status": "True"}])
