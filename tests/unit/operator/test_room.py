"""A volume that cannot hold what a job writes is refused before any pod, with what would do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.jobs import merged
from harness.operator_view import H100, condition, observed
from phitune_operator.plan import plan

PAGES: dict[str, Any] = {
    "task": "docvqa",
    "model": {"init": None},
    "data": {"generate": None},
    "resources": {"nodes": 1, "gpusPerNode": 8, "cpu": None, "memory": None},
    "training": {"maxSteps": None, "globalBatchSize": 64},
    "export": {"merged": True},
}


def refusal(change: dict[str, Any], **seen: Any) -> str | None:
    todo = plan(observed(merged(PAGES, change), nodes=H100, **seen))
    accepted = condition(todo.status, "Accepted")
    assert accepted["reason"] in ("Accepted", "VolumeTooSmall"), accepted
    return str(accepted["message"]) if accepted["status"] == "False" else None


def test_numbers_are_those_of_the_published_model() -> None:
    said = refusal({"storage": {"size": "100Gi"}})
    assert said is not None
    assert "spec.storage.size: the volume has 100 GiB" in said
    assert "7.7 GiB of model, 3 checkpoints (one is being written) of 46 GiB" in said
    assert "7.7 GiB of export" in said


@pytest.mark.parametrize("size", ["60Gi", "100Gi", "110Gi", "153Gi"])
def test_each_way_out_is_one(size: str) -> None:
    said = refusal({"storage": {"size": size}})
    assert said is not None
    larger = re.search(r"a volume of (\d+Gi)", said)
    assert larger is not None
    assert refusal({"storage": {"size": larger[1]}}) is None
    if keep := re.search(r"spec.checkpoint.keep: (\d+)", said):
        assert refusal({"storage": {"size": size}, "checkpoint": {"keep": int(keep[1])}}) is None
    if "spec.export.merged: false" in said:
        assert refusal({"storage": {"size": size}, "export": {"merged": False}}) is None
    assert refusal({"storage": {"size": size}, "method": "lora"}) is None
    assert "method lora" in said


@pytest.mark.parametrize(
    "change",
    [
        {"storage": {"size": "200Gi"}},
        {"method": "lora", "storage": {"size": "40Gi"}},
        {"training": {"maxSteps": 10}, "checkpoint": {"everySteps": 500}, "storage": {"size": "100Gi"}},
        {"model": {"path": "models/mine"}, "storage": {"size": "10Gi"}},
    ],
    ids=["large enough", "adapters", "one checkpoint in all", "a model of any size"],
)
def test_what_may_work_is_not_refused(change: dict[str, Any]) -> None:
    assert refusal(change) is None


def test_claim_of_the_user_counts_with_what_it_has() -> None:
    claim = {
        "metadata": {"name": "shared"},
        "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"capacity": {"storage": "50Gi"}},
    }
    said = refusal({"storage": {"size": None, "claimName": "shared"}}, claim=claim)
    assert said is not None
    assert said.startswith("spec.storage.claimName: the volume has 50 GiB")
