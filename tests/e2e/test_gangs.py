"""Gangs of other shapes than the demo's: more pods, more processes in a pod, adapters only."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cluster import Object
from harness.jobs import example, finetunejob, merged
from harness.lab import Lab, away_from, last_words, occupant
from phitune_operator.fields import quantity
from phitune_trainer.yaml_reader import read_documents

pytestmark = pytest.mark.timeout(600)


def proofs_of(pods: list[Object]) -> list[Any]:
    return [proof for pod in pods for proof in last_words(pod)["ranks"]]


def test_four_pods_of_two_processes_train_one_model(lab: Lab) -> None:
    shape = {"nodes": 4, "processesPerNode": 2, "cpu": "100m", "memory": "3Gi"}
    lab.apply(finetunejob("eight", {"resources": shape, "training": {"maxSteps": 2, "globalBatchSize": 16}}))
    status = lab.wait_for_phase("eight", "Succeeded", timeout=480)

    pods = lab.pods("eight", role="trainer")
    assert len(pods) == 4
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2, "spread over both nodes"
    proofs = proofs_of(pods)
    assert sorted(proof["rank"] for proof in proofs) == list(range(8))
    assert {proof["steps"] for proof in proofs} == {2}
    assert sum(proof["samples"] for proof in proofs) == 2 * 16
    assert len({proof["parametersHash"] for proof in proofs}) == 1
    assert status["summary"]["gpus"] == "4x2 CPU"


def test_adapters_are_trained_by_two_processes_in_one_pod(lab: Lab) -> None:
    (document,) = read_documents(example("digits-lora.yaml"))
    assert isinstance(document.value, dict)
    few = {"training": {"epochs": None, "maxSteps": 4}, "evaluation": {"enabled": False}}
    lab.apply(merged(document.value, {"spec": few | {"export": {"merged": False, "adapter": True}}}))
    status = lab.wait_for_phase("digits-lora", "Succeeded")
    (pod,) = lab.pods("digits-lora", role="trainer")
    proofs = proofs_of([pod])
    assert sorted(proof["rank"] for proof in proofs) == [0, 1]
    assert {proof["steps"] for proof in proofs} == {4}
    assert len({proof["parametersHash"] for proof in proofs}) == 1

    adapter = f"/workspace/{status['artifacts']['adapter']}"
    look = f"import pathlib; print(*[path.name for path in pathlib.Path({adapter!r}).iterdir()])"
    files = lab.on_claim(status["artifacts"]["claim"], look).split()
    assert "adapter_config.json" in files
    assert "adapter_model.safetensors" in files


def test_gang_is_made_when_all_fit_and_taken_back_if_the_scheduler_knows_better(lab: Lab) -> None:
    node, *_ = lab.cluster.list("nodes", lab.namespace)
    share, here = f"{int(quantity(node['status']['allocatable']['cpu']) * 600)}m", node["metadata"]["name"]
    lab.apply(occupant("greedy", lab.trainer_image, here, requests={"cpu": share}))
    # That it keeps away from such pods is for the scheduler to see: the operator counts CPUs and memory.
    lab.apply(finetunejob("halved", {"resources": {"cpu": share}, "podTemplate": away_from("shy")}))

    def events() -> dict[str, str]:
        return dict(lab.events("halved"))

    lab.wait("word that there is no room", lambda: "NoRoom" in events(), timeout=120)
    assert "nodes have room for 1 of 2 pods" in events()["NoRoom"]
    assert lab.pods("halved", role="trainer") == []

    lab.apply(occupant("shy", lab.trainer_image, here, requests={"cpu": "10m"}))
    lab.cluster.kubectl("delete", "pod", "greedy", "-n", lab.namespace, "--grace-period", "1")
    lab.wait("end of the half-placed gang", lambda: "HalfPlaced" in events(), timeout=180)
    assert "only 1 of 2 pods found a node within 1m" in events()["HalfPlaced"]
    lab.cluster.kubectl("delete", "pod", "shy", "-n", lab.namespace, "--grace-period", "1")
    status = lab.wait_for_phase("halved", "Succeeded", timeout=300)
    assert status["restartsCounted"] == 0
