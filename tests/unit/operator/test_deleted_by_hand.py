"""Whatever somebody deletes of what the operator has made for a job is made again, wherever the job is."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.operated_job import KEY, OperatedJob
from harness.operator_view import condition
from phitune_operator.kinds import (
    CLAIM,
    CONFIG_MAP,
    JOB,
    LOCAL_QUEUE,
    NEEDS,
    NETWORK_POLICY,
    POD_GROUP,
    PYTORCHJOB,
    TRAINING_RUNTIME,
    TRAINJOB,
    Kind,
    is_terminating,
    name_of,
    uid_of,
)
from phitune_operator.observed import NetworkAccess, Settings

WHOLE = {CLAIM, CONFIG_MAP, POD_GROUP}
SOMEWHERE = {
    "preparing": ("prepared", PYTORCHJOB, {CLAIM, JOB}),
    "queued": ("admit", PYTORCHJOB, {*WHOLE, PYTORCHJOB}),
    "queued, of another backend": ("admit", TRAINJOB, {*WHOLE, TRAINING_RUNTIME, TRAINJOB}),
    "waiting for nodes": ("start digits-1", PYTORCHJOB, {*WHOLE, PYTORCHJOB}),
    "running": ("nothing", PYTORCHJOB, {*WHOLE, PYTORCHJOB}),
}
"""What does not happen, so that the job stays there; the kind of its gangs; what can be deleted there."""


def come_so_far(without: str, backend: Kind) -> OperatedJob:
    """A job in a cluster with Kueue, whose scheduler places gangs whole and whose network has rules."""
    told = Settings(
        trainer_image="trainer:1",
        backend=backend.kind,
        gang_scheduling=True,
        network=NetworkAccess(operator_namespace="phitune-system"),
    )
    digits = OperatedJob({"queueName": "team"} if without == "admit" else None, settings=told)
    digits.cluster.objects[LOCAL_QUEUE, KEY.namespace, "team"] = {"metadata": {"name": "team"}}
    for _ in range(5):
        digits.flow(without=without)
    return digits


def made(digits: OperatedJob) -> Counter[Kind]:
    """What there is of what the operator makes and is told about; the prepare Job while it is needed."""
    kinds = [CONFIG_MAP, *NEEDS, PYTORCHJOB, TRAINJOB]
    if condition(digits.status, "Prepared")["status"] == "False":
        kinds.append(JOB)
    found = Counter({kind: len(digits.children(kind)) for kind in kinds})
    return +found + Counter({CLAIM: len(digits.cluster.of_kind(CLAIM))})


@pytest.mark.parametrize(
    ("without", "backend", "kind"),
    [
        pytest.param(without, backend, kind, id=f"{kind}, {where}")
        for where, (without, backend, kinds) in SOMEWHERE.items()
        for kind in sorted(kinds, key=str)
    ],
)
def test_what_is_deleted_returns(without: str, backend: Kind, kind: Kind) -> None:
    digits = come_so_far(without, backend)
    before = made(digits)
    (one,) = digits.cluster.of_kind(kind)
    digits.cluster.remove(one)
    digits.flow(without=without)
    digits.flow_until(lambda: made(digits) == before, without=without)
    (again,) = digits.cluster.of_kind(kind)
    assert is_terminating(again) or uid_of(again) != uid_of(one), "what pods or others hold goes with them"


@pytest.mark.parametrize("where", SOMEWHERE)
def test_all_that_can_be_deleted_is(where: str) -> None:
    without, backend, kinds = SOMEWHERE[where]
    assert set(made(come_so_far(without, backend))) == kinds


def test_a_group_that_is_deleted_while_kueue_holds_its_gang_back_is_there_before_its_pods() -> None:
    digits = come_so_far("admit", PYTORCHJOB)
    (group,) = digits.cluster.of_kind(POD_GROUP)
    digits.cluster.remove(group)
    digits.flow(without="admit")
    (again,) = digits.cluster.of_kind(POD_GROUP)
    assert name_of(again) == name_of(group)
    assert uid_of(again) != uid_of(group)
    writes = digits.cluster.num_writes
    for _ in range(3):
        digits.flow(without="admit")
    assert digits.cluster.num_writes == writes, "it is made once"


@pytest.mark.parametrize("where", SOMEWHERE)
def test_rules_of_the_network_return_with_the_next_gang_also_with_the_first(where: str) -> None:
    without, backend, _ = SOMEWHERE[where]
    digits = come_so_far(without, backend)
    before, made_before = digits.children(NETWORK_POLICY), list(digits.cluster.gangs_made)
    assert len(before) == 2
    for policy in before:
        digits.cluster.remove(policy)
    for gang in digits.cluster.of_kind(backend):
        digits.cluster.remove(gang)
    digits.flow_until(lambda: digits.cluster.gangs_made != made_before)
    assert len(digits.children(NETWORK_POLICY)) == 2


def test_nothing_is_made_again_for_a_gang_that_has_done_its_work() -> None:
    digits = come_so_far("nothing", PYTORCHJOB)
    for pod in digits.cluster.running_trainers():
        digits.cluster.end(pod, 0)
    for group in digits.cluster.of_kind(POD_GROUP):
        digits.cluster.remove(group)
    digits.flow_until(lambda: digits.status["phase"] == "Succeeded")
    assert digits.cluster.of_kind(POD_GROUP) == []
