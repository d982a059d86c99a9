"""Which pods count as the job's: labels can be copied, a controller cannot be had by accident."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.jobs import finetunejob
from harness.simulated_cluster import SimulatedCluster
from phitune_operator import names
from phitune_operator.kinds import FINETUNEJOB, POD, Key, Object
from phitune_operator.observe import Observer
from phitune_operator.observed import Settings
from phitune_operator.progress import ProgressPoller
from phitune_operator.store import Store

KEY = Key("team", "digits")
GANG = {
    "apiVersion": "kubeflow.org/v1",
    "kind": "PyTorchJob",
    "name": "digits-1",
    "uid": "g",
    "controller": True,
}
PREPARE = {"apiVersion": "batch/v1", "kind": "Job", "name": "digits-prepare", "uid": "p", "controller": True}


def pods_seen(owners: list[Object], *, attempt: str | None) -> list[str]:
    """Names of the pods that are counted, of one pod with the job's labels and these owners."""
    job = finetunejob("digits")
    job["metadata"] |= {"namespace": "team", "uid": "j", "generation": 1, "resourceVersion": "1"}
    job["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    labels = {names.LABEL_JOB: "digits", names.LABEL_JOB_UID: "j"}
    labels |= {names.LABEL_ATTEMPT: attempt} if attempt else {}
    metadata: Object = {"name": "pod", "namespace": "team", "uid": "u", "resourceVersion": "1"}
    store = Store()
    store.absorb(FINETUNEJOB, job)
    store.absorb(POD, {"metadata": {**metadata, "labels": labels, "ownerReferences": owners}})
    unused: Any = None
    observer = Observer(SimulatedCluster(), store, ProgressPoller(unused), Settings(trainer_image="i"))  # type: ignore[arg-type]
    seen = asyncio.run(observer.observe(KEY, now=datetime(2026, 1, 1, 12, tzinfo=UTC)))
    assert seen is not None
    return [pod.name for pod in seen.pods]


@pytest.mark.parametrize(("owner", "attempt"), [(GANG, "1"), (PREPARE, None)])
def test_pod_counts_though_the_object_that_made_it_is_gone(owner: Object, attempt: str | None) -> None:
    assert pods_seen([owner], attempt=attempt) == ["pod"]


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([], id="nobody's"),
        pytest.param([{**GANG, "controller": False}], id="not its controller"),
        pytest.param([{**GANG, "name": "other-1"}], id="another gang"),
        pytest.param([{**GANG, "kind": "ReplicaSet", "apiVersion": "apps/v1"}], id="another kind"),
    ],
)
def test_pod_with_copied_labels_is_not_counted(owners: list[Object]) -> None:
    assert pods_seen(owners, attempt="1") == []
