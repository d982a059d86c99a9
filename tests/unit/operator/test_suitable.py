"""A job that its GPUs cannot do, or have far too little memory for, is refused with what to change."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from harness.operator_view import condition, observed
from phitune_operator import names
from phitune_operator.decide import subject_of
from phitune_operator.gpu_labels import MAJOR, MEMORY, MIB, MINOR
from phitune_operator.nodes import Node
from phitune_operator.plan import plan
from phitune_operator.recipe import RECIPE
from phitune_trainer.memory import GPUS

PAGES: dict[str, Any] = {"task": "docvqa", "model": None, "data": None, "training": None}


def nodes(gpu: str, count: int = 4) -> tuple[Node, ...]:
    known = GPUS[gpu]
    assert known.memory is not None
    assert known.compute_capability is not None
    major, minor = known.compute_capability
    labels = {
        names.LABEL_GPU_PRODUCT: gpu,
        MAJOR: str(major),
        MINOR: str(minor),
        MEMORY: str(known.memory // MIB),
    }
    return tuple(Node(name=f"gpu-{index}", labels=labels, num_gpus=8) for index in range(count))


def on_gpus(num_nodes: int = 1, **spec: Any) -> dict[str, Any]:
    resources = {"nodes": num_nodes, "gpusPerNode": 8, "cpu": None, "memory": None}
    return {**PAGES, "resources": resources, **spec}


@pytest.mark.parametrize(
    ("spec", "gpu", "words"),
    [
        pytest.param(
            {"training": {"attention": "flash"}},
            "V100-32GB",
            [
                "spec.training.attention: flash needs compute capability 8.0",
                "V100-32GB has 7.0",
                "auto or sdpa",
            ],
            id="flash in what would be fp16",
        ),
        pytest.param(
            {"training": {"attention": "flash", "precision": "bf16"}},
            "RTX-8000",
            ["spec.training.attention: flash needs compute capability 8.0", "RTX-8000 has 7.5"],
            id="flash in bf16",
        ),
        pytest.param(
            {"method": "qlora"},
            "V100-32GB",
            ["spec.method: qlora needs compute capability 7.5", "V100-32GB has 7.0", "use lora"],
            id="4 bits",
        ),
        pytest.param(
            {"method": "qlora", "training": {"attention": "flash"}},
            "V100-32GB",
            ["spec.training.attention", "spec.method"],
            id="both are said at once",
        ),
    ],
)
def test_what_the_gpu_cannot_do_is_refused_with_field_and_remedy(
    spec: dict[str, Any], gpu: str, words: list[str]
) -> None:
    todo = plan(observed(on_gpus(**spec), nodes=nodes(gpu)))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "UnsuitableGPU")
    assert all(word in accepted["message"] for word in words)
    assert (todo.actions, todo.status["phase"]) == ((), "Pending")


@pytest.mark.parametrize(
    ("spec", "gpu"),
    [({"method": "qlora"}, "T4"), ({"training": {"attention": "flash"}}, "L40S")],
)
def test_the_oldest_gpu_that_can_is_accepted(spec: dict[str, Any], gpu: str) -> None:
    todo = plan(observed(on_gpus(**spec), nodes=nodes(gpu)))
    assert condition(todo.status, "Accepted")["status"] == "True"


def test_every_choice_of_attention_and_precision_is_decided_on_every_gpu() -> None:
    precisions = {
        "flash": ("auto", "bf16"),
        "sdpa": ("auto", "bf16", "fp16", "fp32"),
        "auto": ("fp16", "fp32"),
    }
    for gpu, (attention, ways) in product(GPUS, precisions.items()):
        for precision, method in product(ways, ("full", "lora", "qlora")):
            asked = {"attention": attention, "precision": precision}
            todo = plan(observed(on_gpus(method=method, training=asked), nodes=nodes(gpu)))
            assert condition(todo.status, "Accepted")["reason"] in ("Accepted", "UnsuitableGPU", "DoesNotFit")


ON_GPU: dict[str, Any] = {"offloadOptimizer": "never"}


def test_job_that_is_far_too_large_is_refused_with_numbers_and_remedies() -> None:
    todo = plan(observed(on_gpus(method="full", training=ON_GPU), nodes=nodes("T4")))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "DoesNotFit")
    assert "T4 has 15 GiB, and the smallest pass" in accepted["message"]
    assert "activations recomputed, takes about" in accepted["message"]
    assert "method: lora (about" in accepted["message"]
    assert todo.actions == ()


def test_job_that_is_too_large_even_with_its_optimizer_on_the_host_is_refused() -> None:
    one = {"nodes": 1, "gpusPerNode": 1, "cpu": None, "memory": None}
    todo = plan(observed({**on_gpus(method="full"), "resources": one}, nodes=nodes("RTX-4090")))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "DoesNotFit")
    assert "activations recomputed and the optimizer on the host, takes about 27 GiB" in accepted["message"]
    assert "2 GPUs in all (about" in accepted["message"]


def test_model_of_unknown_size_on_the_volume_is_not_refused_for_its_size() -> None:
    todo = plan(
        observed(on_gpus(method="full", model={"init": None, "path": "models/own"}), nodes=nodes("T4"))
    )
    assert condition(todo.status, "Accepted")["status"] == "True"


def test_what_cannot_run_there_is_no_remedy() -> None:
    old = plan(observed(on_gpus(method="full", training=ON_GPU), nodes=nodes("V100-16GB")))
    new = plan(observed(on_gpus(method="full", training=ON_GPU), nodes=nodes("T4")))
    assert "method: qlora" not in condition(old.status, "Accepted")["message"]
    assert "method: qlora" in condition(new.status, "Accepted")["message"]


def test_batch_that_is_too_large_where_a_smaller_one_is_not_is_only_noted() -> None:
    training = {"perDeviceBatchSize": 8, "globalBatchSize": 64, "gradientCheckpointing": "never"}
    todo = plan(observed(on_gpus(method="lora", training=training), nodes=nodes("RTX-4090")))
    assert condition(todo.status, "Accepted")["status"] == "True"
    assert any("RTX-4090 is too small" in note for note in todo.status["placement"]["notes"])


def test_every_row_of_the_recipe_is_accepted_on_its_gpus() -> None:
    tasks = {*RECIPE, ("nlvr2", "lora", False), ("ucf101", "full", False), ("ucf101", "full", True)}
    for (task, method, frozen), num_nodes, gpu in product(tasks, (1, 2, 4), ("A100-80GB", "V100-32GB")):
        if (method, gpu) != ("qlora", "V100-32GB"):
            spec = on_gpus(num_nodes, task=task, method=method, freezeVision=frozen)
            subject_of(observed(spec, nodes=nodes(gpu)))
