"""What a look costs does not grow with the number of jobs, nor does what all looks write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.operator_view import PREPARED, gang, observed, pod, subject
from phitune_operator import decide, names
from phitune_operator.kinds import FINETUNEJOB, POD, PYTORCHJOB, Key, Object
from phitune_operator.kube import Kube
from phitune_operator.metrics import Metrics
from phitune_operator.observe import MOST_POLLS, Observer
from phitune_operator.observed import Settings
from phitune_operator.plan import plan
from phitune_operator.progress import ProgressPoller
from phitune_operator.render.config_map import config_map
from phitune_operator.render.volume import claim
from phitune_operator.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
VOLUME = claim(subject())
GANG: Any = {"claim": VOLUME, "gangs": (gang(),), "pods": (pod(0), pod(1))}


def job(name: str, phase: str) -> Object:
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1", "generation": 1}
    ended = [{"type": "Succeeded", "status": "True"}] if phase == "Succeeded" else []
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "conditions": ended}}


@pytest.mark.parametrize(("num_running", "seconds"), [(1, 5.0), (200, 5.0), (500, 12.5), (5000, 125.0)])
def test_the_more_jobs_run_the_longer_is_the_pause_between_two_questions_to_each(
    num_running: int, seconds: float
) -> None:
    async def run() -> float:
        store = Store()
        for number in range(num_running):
            store.absorb(FINETUNEJOB, job(f"job-{number}", "Evaluating" if number % 10 == 0 else "Running"))
        store.absorb(FINETUNEJOB, job("over", "Succeeded"))
        nobody: Any = None
        poller = ProgressPoller(nobody)
        kube = Kube(nobody, Metrics())
        observer = Observer(kube, store, poller, Settings(trainer_image="trainer:1"))
        seen = await observer.observe(Key("team", "over"), now=NOON)
        assert seen is not None
        return seen.poll_every

    assert asyncio.run(run()) == seconds
    assert num_running / seconds <= MOST_POLLS


def test_the_store_is_asked_as_often_for_a_large_gang_as_for_a_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def times_asked(num_pods: int) -> int:
        store, asked = Store(), []
        store.absorb(FINETUNEJOB, job("over", "Succeeded"))
        for index in range(num_pods):
            labels = {names.LABEL_JOB: "over", names.LABEL_JOB_UID: "over", names.LABEL_ATTEMPT: "1"}
            owner = {"apiVersion": PYTORCHJOB.api_version, "kind": PYTORCHJOB.kind, "name": "over-1"}
            metadata = {"name": f"p{index}", "namespace": "team", "uid": f"p{index}", "labels": labels}
            store.absorb(POD, {"metadata": metadata | {"ownerReferences": [{**owner, "controller": True}]}})
        children = store.children
        monkeypatch.setattr(store, "children", lambda *which: asked.append(which) or children(*which))
        nobody: Any = None
        observer = Observer(nobody, store, ProgressPoller(nobody), Settings(trainer_image="trainer:1"))
        seen = asyncio.run(observer.observe(Key("team", "over"), now=NOON))
        assert seen is not None
        assert len(seen.pods) == num_pods
        return len(asked)

    assert times_asked(50) == times_asked(1)


def test_a_gang_that_runs_is_looked_at_again_after_that_pause() -> None:
    seen = observed(status=PREPARED, config_map=config_map(subject()), poll_every=12.5, **GANG)
    assert plan(seen).look_again == 12.5


def test_the_config_of_a_run_is_read_once_however_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = config_map(subject())
    made["metadata"]["name"] = "read-once-config"
    times: list[str] = []
    read = decide.read_document

    def counted(text: str) -> object:
        times.append(text)
        return read(text)

    monkeypatch.setattr(decide, "read_document", counted)
    for _ in range(3):
        plan(observed(status=PREPARED, config_map=made, **GANG))
    assert len(times) == 1
