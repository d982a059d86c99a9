"""Model and data are put on a volume once: the next job there that needs the same makes no prepare Job."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from harness.jobs import finetunejob, merged
from harness.operator_view import NOON, PREPARED, condition, gang, observed, pod, subject
from harness.simulated_cluster import SimulatedCluster
from phitune_operator.api import FineTuneJobSpec
from phitune_operator.clock import to_text
from phitune_operator.kinds import FINETUNEJOB, JOB, PYTORCHJOB, Key, Object, uid_of
from phitune_operator.observe import Observer
from phitune_operator.observed import Create, Delete, Settings
from phitune_operator.plan import plan
from phitune_operator.prepared import GOOD_FOR, what_to_prepare
from phitune_operator.progress import ProgressPoller
from phitune_operator.render.config_map import config_map
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.store import Store
from phitune_operator.validate import read_job

ON_CLAIM: Object = {"storage": {"size": None, "claimName": "shared"}}
CLAIM: Object = {
    "metadata": {"name": "shared", "namespace": "team", "uid": "c"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound"},
}
HUB: Object = {"task": "docvqa", "model": {"init": None}, "data": {"generate": None}}
OTHER = Key("team", "other")


def spec(*changes: Object) -> FineTuneJobSpec:
    document = finetunejob("digits")
    for change in (ON_CLAIM, *changes):
        document["spec"] = merged(document["spec"], change)
    return read_job(document).spec


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        pytest.param({"training": {"learningRate": 0.5, "maxSteps": 9}}, True, id="a sweep"),
        pytest.param({"method": "lora", "export": {"merged": True}}, True, id="another method"),
        pytest.param({"resources": {"nodes": 1}, "env": [{"name": "A"}]}, True, id="other pods"),
        pytest.param({"training": {"seed": 7}}, False, id="the seed, of which models are made"),
        pytest.param({"training": {"maxLength": 77}}, False, id="what is too long"),
        pytest.param({"model": {"init": None, "name": "team/model"}}, False, id="another model"),
        pytest.param(HUB, False, id="other data"),
        pytest.param({"evaluation": {"enabled": True}}, False, id="held-out samples"),
    ],
)
def test_what_is_needed_on_a_volume(change: Object, is_same: bool) -> None:
    first = what_to_prepare(spec(), CLAIM)
    assert first is not None
    assert (what_to_prepare(spec(change), CLAIM) == first) == is_same
    elsewhere = merged(CLAIM, {"metadata": {"uid": "made anew"}})
    assert what_to_prepare(spec(), elsewhere) != first, "a claim that was made anew holds nothing"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"data": {"generate": None, "path": "data/mine"}}, id="own data"),
        pytest.param({"model": {"init": None, "path": "models/mine"}}, id="own model"),
    ],
)
def test_folders_of_the_users_own_are_looked_at_for_every_job(change: Object) -> None:
    assert what_to_prepare(spec(change), CLAIM) is None
    assert what_to_prepare(spec(), None) is None


def test_store_knows_who_prepared_last_until_that_is_long_ago_or_the_job_is_gone() -> None:
    def job(name: str, version: int, **status: Any) -> Object:
        metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": str(version)}
        return {"metadata": metadata, "status": status}

    store = Store()
    said = {"key": "k", "at": to_text(NOON)}
    store.absorb(FINETUNEJOB, job("first", 1, prepared=said))
    store.absorb(FINETUNEJOB, job("later", 2, prepared={**said, "at": to_text(NOON + timedelta(hours=1))}))
    store.absorb(FINETUNEJOB, job("garbled", 3, prepared={"key": "k", "at": "yesterday"}))

    def last(hours: float) -> str | None:
        known = store.prepared.last("k", now=NOON + timedelta(hours=hours))
        return known.job.name if known else None

    assert last(2) == "later"
    assert store.prepared.last("another", now=NOON) is None
    store.absorb(FINETUNEJOB, job("later", 4), deleted=True)
    assert last(2) == "first"
    assert last(GOOD_FOR / timedelta(hours=1)) is None
    store.absorb(FINETUNEJOB, job("first", 5, phase="Failed"))
    assert last(2) is None


def test_job_is_told_who_has_prepared_its_volume_until_it_prepares_itself() -> None:
    cluster, store = SimulatedCluster(), Store()
    claim = cluster.put_new({**copy.deepcopy(CLAIM), "apiVersion": "v1", "kind": "PersistentVolumeClaim"})
    said = {"key": what_to_prepare(spec(), claim), "at": to_text(NOON)}
    for name, status in (("digits", {}), ("other", {"prepared": said})):
        job = {**finetunejob(name, ON_CLAIM), "status": status}
        job["metadata"]["namespace"] = "team"
        store.absorb(FINETUNEJOB, cluster.put_new(job))
    unused: Any = None
    poller = ProgressPoller(unused)
    observer = Observer(cluster, store, poller, Settings(trainer_image="i"))  # type: ignore[arg-type]

    def told() -> Key | None:
        seen = asyncio.run(observer.observe(Key("team", "digits"), now=NOON))
        assert seen is not None
        return seen.prepared_by

    assert told() == OTHER
    mine = prepare_job(subject())
    mine["metadata"]["ownerReferences"][0]["uid"] = uid_of(cluster.job("digits"))
    store.absorb(JOB, cluster.put_new(mine))
    assert told() is None


def made(seen: Any) -> list[str]:
    return [action.body["kind"] for action in plan(seen).actions if isinstance(action, Create)]


def test_user_error_is_believed_only_after_a_job_has_looked_at_the_volume_itself() -> None:
    """Somebody has removed what another job had put there."""
    shared = {**copy.deepcopy(PREPARED), "attempt": 1}
    shared["conditions"][0]["reason"] = "Shared"
    ended = (pod(0, code=2, message='{"exitCode": 2, "message": "no such folder"}'), pod(1, code=2))
    known: Any = {"claim": CLAIM, "config_map": config_map(subject(ON_CLAIM)), "prepared_by": OTHER}
    first = plan(observed(ON_CLAIM, shared, gangs=(gang(),), pods=ended, **known))
    prepared = condition(first.status, "Prepared")
    assert (prepared["status"], prepared["reason"]) == ("False", "Doubted")
    assert "no such folder" in prepared["message"]
    assert first.status["phase"] == "Restarting"
    assert "restartsCounted" not in first.status

    after = plan(observed(ON_CLAIM, first.status, pods=ended, **known))
    assert [one.body["kind"] for one in after.actions if isinstance(one, Create)] == [JOB.kind]
    done = prepare_job(subject()) | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    known = {"claim": CLAIM, "config_map": known["config_map"], "prepare": done}
    later = replace(observed(ON_CLAIM, after.status, **known), now=NOON + timedelta(minutes=1))
    again = plan(later)
    assert (again.status["attempt"], condition(again.status, "Prepared")["reason"]) == (2, "Prepared")
    assert again.status["prepared"]["key"] == what_to_prepare(spec(), CLAIM), "others believe this one now"

    ended = (pod(0, code=2, attempt=2), pod(1, code=2, attempt=2))
    last = plan(observed(ON_CLAIM, again.status, gangs=(gang(2),), pods=ended, **known))
    assert (last.status["phase"], last.status["failure"]["reason"]) == ("Failed", "UserError")


@pytest.mark.parametrize("trained", [{"progress": {"step": 3}}, {"lastCheckpoint": {"step": 2}}])
def test_user_error_of_a_job_that_has_trained_is_believed_at_once(trained: Object) -> None:
    shared = {**copy.deepcopy(PREPARED), **trained}
    shared["conditions"][0]["reason"] = "Shared"
    known: Any = {"claim": CLAIM, "config_map": config_map(subject(ON_CLAIM)), "gangs": (gang(),)}
    todo = plan(observed(ON_CLAIM, shared, pods=(pod(0, code=2), pod(1, code=2)), **known))
    assert todo.status["phase"] == "Failed"


def test_gpu_that_is_too_small_is_no_reason_to_look_at_the_volume_again() -> None:
    shared = copy.deepcopy(PREPARED)
    shared["conditions"][0]["reason"] = "Shared"
    words = '{"exitCode": 2, "reason": "OutOfGpuMemory", "message": "needs 30 GiB"}'
    known: Any = {"claim": CLAIM, "config_map": config_map(subject(ON_CLAIM)), "gangs": (gang(),)}
    todo = plan(observed(ON_CLAIM, shared, pods=(pod(0, code=2, message=words), pod(1, code=2)), **known))
    assert (todo.status["phase"], todo.status["failure"]["reason"]) == ("Failed", "OutOfGpuMemory")


def test_gang_of_an_error_that_is_doubted_goes_before_its_volume_is_looked_at() -> None:
    """Also where the operator ended between its two writes: what still runs holds GPUs."""
    shared = copy.deepcopy(PREPARED)
    shared["conditions"][0]["reason"] = "Shared"
    ended = (pod(0, code=2), pod(1))
    known: Any = {"claim": CLAIM, "config_map": config_map(subject(ON_CLAIM)), "gangs": (gang(),)}
    first = plan(observed(ON_CLAIM, shared, pods=ended, **known))
    after = plan(observed(ON_CLAIM, first.status, pods=ended, **known))
    assert [one.kind for one in after.actions if isinstance(one, Delete)] == [PYTORCHJOB]


def test_job_that_prepared_says_so_and_the_next_one_starts_its_gang_at_once() -> None:
    done = prepare_job(subject()) | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    known: Any = {"claim": CLAIM, "config_map": config_map(subject(ON_CLAIM))}
    first = plan(observed(ON_CLAIM, prepare=done, **known))
    expected = {"key": what_to_prepare(spec(), CLAIM), "at": to_text(NOON)}
    assert first.status["prepared"] == expected
    again = plan(observed(ON_CLAIM, copy.deepcopy(first.status), **known))
    assert again.status["prepared"] == expected

    alone = observed(ON_CLAIM, claim=CLAIM)
    assert JOB.kind in made(alone)
    beside = observed(ON_CLAIM, claim=CLAIM, prepared_by=OTHER)
    assert JOB.kind not in made(beside)
    assert PYTORCHJOB.kind in made(beside)
    todo = plan(beside)
    prepared = condition(todo.status, "Prepared")
    assert (prepared["status"], prepared["reason"]) == ("True", "Shared")
    assert "job other has put model and data on the volume" in prepared["message"]
    assert "prepared" not in todo.status, "who only uses it does not make it last longer"
