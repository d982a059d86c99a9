"""What a look costs does not grow with the number of jobs, nor does what all looks write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import aiohttp
import pytest

from harness.operator_view import PREPARED, gang, observed, pod, subject
from phitune_operator import names
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
from phitune_trainer.config import parse_config
from phitune_trainer.yaml_reader import read_document

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
VOLUME = claim(subject())
GANG: Any = {"claim": VOLUME, "gangs": (gang(),), "pods": (pod(0), pod(1))}


class Refused:
    """A session none of whose connections is made."""

    def get(self, *_: Any, **__: Any) -> Any:
        nobody: Any = None
        raise aiohttp.ClientConnectorError(nobody, OSError("refused"))


def job(name: str, phase: str, *, runs: bool = False) -> Object:
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1", "generation": 1}
    true = [*(["Succeeded"] if phase == "Succeeded" else []), *(["Running"] if runs else [])]
    conditions = [{"type": kind, "status": "True"} for kind in true]
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "conditions": conditions}}


@pytest.mark.parametrize(
    ("num_asked", "runs", "seconds"),
    [
        pytest.param(1, False, 5.0, id="whoever has applied it waits to see it run"),
        pytest.param(1, True, 10.0, id="one"),
        pytest.param(400, True, 10.0, id="hundreds"),
        pytest.param(500, True, 12.5, id="more"),
        pytest.param(5000, True, 125.0, id="thousands"),
    ],
)
def test_the_more_jobs_run_the_longer_is_the_pause_between_two_questions_to_each(
    num_asked: int, runs: bool, seconds: float
) -> None:
    async def run() -> float:
        session: Any = Refused()
        poller = ProgressPoller(session)
        for number in range(num_asked):
            await poller.poll(Key("team", f"job-{number}"), "uid", "127.0.0.1", at_most_every=0)
        store = Store()
        store.absorb(FINETUNEJOB, job("over", "Succeeded", runs=runs))
        observer = Observer(Kube(nobody, Metrics()), store, poller, Settings(trainer_image="trainer:1"))
        seen = await observer.observe(Key("team", "over"), now=NOON)
        assert seen is not None
        return seen.poll_in

    nobody: Any = None
    assert asyncio.run(run()) == seconds
    assert num_asked / seconds <= MOST_POLLS


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
    seen = observed(status=PREPARED, config_map=config_map(subject()), poll_in=12.5, **GANG)
    assert plan(seen).look_again == 12.5


def test_the_config_of_a_run_is_read_once_and_not_at_all_by_who_has_written_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times: list[str] = []
    module = import_module("phitune_operator.render.config_map")
    read = read_document

    def counted(text: str) -> object:
        times.append(text)
        return read(text)

    monkeypatch.setattr(module, "read_document", counted)
    made = config_map(subject())
    plan(observed(status=PREPARED, config_map=made, **GANG))
    assert not times
    made["data"][names.CONFIG_KEY] += "# an operator before this one wrote it\n"
    for _ in range(3):
        plan(observed(status=PREPARED, config_map=made, **GANG))
    assert len(times) == 1


def test_what_is_remembered_of_a_config_is_what_its_text_says() -> None:
    train = subject().train
    assert parse_config(read_document(train.to_yaml())) == train
