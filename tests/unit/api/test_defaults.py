"""What a job gets that leaves a field open: the recipe's row, else the recipe's flag default, else ours."""

from __future__ import annotations

from typing import Any

import pytest

from harness.documents import GPU, job
from harness.jobs import SMALL, merged
from phitune_operator.api import FineTuneJob
from phitune_operator.defaults import (
    Resolved,
    cpu_request,
    memory_limit,
    resolve,
    shared_memory,
)
from phitune_operator.fields import seconds
from phitune_operator.validate import read_job
from phitune_trainer.memory import GPUS, Gpu

PAGES: dict[str, Any] = {"task": "docvqa", "model": None, "data": None, "resources": GPU}
NOTHING_SAID: dict[str, Any] = {"training": None, "evaluation": None, "export": None}


def resolved(spec: dict[str, Any], gpu: Gpu | None = None) -> Resolved:
    return resolve(
        read_job(job(spec=merged(merged(SMALL, NOTHING_SAID), spec))),
        namespace="team",
        uid="0123-4567",
        gpu=gpu,
    )


def on_gpus(task: str, method: str, frozen: bool = False, **more: Any) -> Resolved:
    data = None if task != "jsonl" else {"generate": "digits"}
    spec = {"task": task, "method": method, "freezeVision": frozen, "data": data, "resources": GPU}
    return resolved({**spec, **more}, GPUS["A100-80GB"])


@pytest.mark.parametrize(
    ("task", "method", "frozen", "learning_rate", "epochs", "lora"),
    [
        ("nlvr2", "full", False, 1e-5, 3, None),
        ("nlvr2", "full", True, 2e-5, 2, None),
        ("docvqa", "full", False, 5e-6, 2, None),
        ("docvqa", "full", True, 1e-4, 2, None),
        ("docvqa", "lora", False, 2e-4, 2, (32, 16)),
        ("docvqa", "qlora", False, 2e-4, 2, (32, 16)),
        ("hatefulMemes", "full", False, 5e-5, 2, None),
        ("hatefulMemes", "full", True, 1e-4, 3, None),
        ("hatefulMemes", "lora", False, 2e-4, 2, (128, 256)),
        ("hatefulMemes", "qlora", False, 2e-4, 2, (128, 256)),
    ],
)
def test_recipes_row_fills_in_hyperparameters(
    task: str, method: str, frozen: bool, learning_rate: float, epochs: int, lora: tuple[int, float] | None
) -> None:
    train = on_gpus(task, method, frozen).train
    assert (train.training.learning_rate, train.training.epochs) == (learning_rate, epochs)
    assert train.training.global_batch_size == 64
    assert (None if train.lora is None else (train.lora.rank, train.lora.alpha)) == lora


@pytest.mark.parametrize(("task", "method"), [("nlvr2", "lora"), ("ucf101", "full"), ("jsonl", "qlora")])
def test_without_a_row_the_recipes_flag_defaults_hold(task: str, method: str) -> None:
    train = on_gpus(task, method).train
    assert (train.training.learning_rate, train.training.epochs) == (4e-5, 1)
    assert train.training.global_batch_size == 16
    if train.lora is not None:
        assert (train.lora.rank, train.lora.alpha, train.lora.dropout) == (64, 128, 0)


def test_constants_of_the_recipe() -> None:
    training = on_gpus("docvqa", "full").train.training
    assert (training.weight_decay, training.warmup_steps, training.schedule) == (0.01, 50, "linear")
    assert training.num_crops == 16
    assert on_gpus("ucf101", "full").train.training.num_crops == 4


@pytest.mark.parametrize(
    ("asked", "rank", "alpha"),
    [
        ({"rank": 8}, 8, 16),
        ({"rank": 32}, 32, 16),
        ({"alpha": 5}, 32, 5),
        ({"rank": 8, "alpha": 5}, 8, 5),
        ({}, 32, 16),
    ],
)
def test_alpha_of_the_row_belongs_to_its_rank(asked: dict[str, Any], rank: int, alpha: float) -> None:
    lora = on_gpus("docvqa", "lora", lora=asked).train.lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (rank, alpha)


@pytest.mark.parametrize(
    ("frozen", "asked", "vision"), [(False, {}, True), (True, {}, False), (False, {"vision": False}, False)]
)
def test_vision_gets_adapters_unless_frozen(frozen: bool, asked: dict[str, Any], vision: bool) -> None:
    lora = on_gpus("docvqa", "lora", frozen, lora=asked).train.lora
    assert lora is not None
    assert lora.vision is vision


@pytest.mark.parametrize(
    ("nodes", "processes", "per_device", "batch"),
    [(1, 1, None, 16), (3, 1, None, 15), (5, 1, None, 15), (1, 6, None, 18), (2, 8, 4, 64), (7, 3, None, 21)],
)
def test_default_batch_is_the_nearest_that_divides_and_is_said(
    nodes: int, processes: int, per_device: int | None, batch: int
) -> None:
    training = {"perDeviceBatchSize": per_device} if per_device else {}
    result = resolved({"resources": {"nodes": nodes, "processesPerNode": processes}, "training": training})
    assert result.train.training.global_batch_size == batch
    assert any(f"globalBatchSize is {batch}" in note for note in result.notes) == (batch != 16)


def test_users_batch_is_kept() -> None:
    training = resolved({"training": {"globalBatchSize": 34, "perDeviceBatchSize": 17}}).train.training
    assert (training.global_batch_size, training.micro_batch_size) == (34, 17)


@pytest.mark.parametrize(("batch", "micro"), [(2, 1), (14, 7), (32, 8), (34, 1)])
def test_micro_batch_divides_the_share_of_a_rank(batch: int, micro: int) -> None:
    training = resolved({"training": {"globalBatchSize": batch}}).train.training
    assert training.micro_batch_size == micro


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 0), (70, 7), (499, 49), (500, 50), (10_000, 50)])
def test_warm_up_is_at_most_a_tenth_of_a_short_run(steps: int, warmup: int) -> None:
    result = resolved({"training": {"maxSteps": steps}})
    assert result.train.training.warmup_steps == warmup
    assert any("warmupSteps" in note for note in result.notes) == (warmup != 50)


@pytest.mark.parametrize(
    ("gpu", "method", "precision", "attention", "micro_batch", "recompute"),
    [
        ("H100", "full", "bf16", "flash", 1, False),
        ("A100-80GB", "full", "bf16", "flash", 1, False),
        ("A100-80GB", "lora", "bf16", "flash", 1, False),
        ("A100-40GB", "full", "bf16", "flash", 4, True),
        ("V100-32GB", "full", "fp16", "sdpa", 4, True),
        ("V100-32GB", "lora", "fp16", "sdpa", 4, True),
        ("RTX-8000", "full", "fp16", "sdpa", 1, False),
        ("RTX-4090", "full", "bf16", "flash", 4, True),
        ("RTX-4090", "qlora", "bf16", "flash", 4, True),
        ("T4", "qlora", "fp16", "sdpa", 4, True),
    ],
)
def test_precision_attention_and_batch_follow_the_gpu(
    gpu: str, method: str, precision: str, attention: str, micro_batch: int, recompute: bool
) -> None:
    result = resolved({**PAGES, "method": method}, GPUS[gpu])
    training = result.train.training
    assert (training.precision, training.attention) == (precision, attention)
    assert (training.micro_batch_size, training.gradient_checkpointing) == (micro_batch, recompute)
    assert result.memory is not None
    assert result.memory.fits
    for name in ("training.precision", "training.attention", "sample"):
        assert sum(gpu in note and name in note for note in result.notes) == 1


def test_gpu_that_is_too_small_is_named_with_the_numbers() -> None:
    asked = {**PAGES, "method": "full", "training": {"offloadOptimizer": "never"}}
    result = resolved(asked, GPUS["T4"])
    assert result.memory is not None
    assert not result.memory.fits
    assert any(
        note.startswith("T4 is too small: 1 sample a pass") and "of 15 GiB" in note for note in result.notes
    )


def test_precision_is_known_where_only_the_compute_capability_is() -> None:
    result = resolved({"resources": GPU}, Gpu("GRID", None, (7, 5)))
    assert (result.train.training.precision, result.train.training.micro_batch_size) == ("fp16", 1)
    assert result.memory is None


def test_batch_and_recomputation_that_were_asked_for_are_kept() -> None:
    asked = {"perDeviceBatchSize": 8, "gradientCheckpointing": "never", "attention": "eager"}
    training = resolved({**PAGES, "method": "lora", "training": asked}, GPUS["T4"]).train.training
    assert (training.micro_batch_size, training.gradient_checkpointing) == (8, False)
    assert training.attention == "eager"


@pytest.mark.parametrize("asked", ["auto", "always", "never"])
def test_the_trainer_is_told_where_recomputation_is_forbidden_and_may_try_it_elsewhere(asked: str) -> None:
    config = resolved({"training": {"gradientCheckpointing": asked}}).train.to_yaml()
    said = [line.strip() for line in config.splitlines() if "gradientCheckpointingForbidden" in line]
    assert said == (["gradientCheckpointingForbidden: true"] if asked == "never" else [])


def test_unknown_gpu_is_assumed_to_be_of_today_and_that_is_said() -> None:
    result = resolved({"resources": GPU})
    training = result.train.training
    assert (training.precision, training.attention) == ("bf16", "sdpa")
    assert (training.micro_batch_size, training.gradient_checkpointing) == (1, True)
    assert result.memory is None
    assert any("precision is bf16: the GPU is not known" in note for note in result.notes)
    assert any("perDeviceBatchSize is 1: the memory of the GPU is not known" in note for note in result.notes)


def test_cpu_computes_in_full_precision() -> None:
    train = resolved({}).train
    assert (train.training.precision, train.training.attention) == ("fp32", "sdpa")
    assert (train.world.device, train.world.nodes, train.world.processes_per_node) == ("cpu", 2, 1)
    assert not train.training.gradient_checkpointing


def test_what_the_user_says_is_kept() -> None:
    said = {
        "epochs": None,
        "maxSteps": 7,
        "learningRate": 0.5,
        "weightDecay": 0,
        "warmupSteps": 3,
        "schedule": "cosine",
        "numCrops": 2,
        "maxLength": 99,
        "gradientCheckpointing": "always",
        "precision": "bf16",
        "attention": "eager",
        "seed": 0,
    }
    training = resolved({"training": said}).train.training.model_dump(by_alias=True)
    assert {name: training[name] for name in said} == {**said, "gradientCheckpointing": True}


def test_run_is_that_of_the_job() -> None:
    train = resolved({}).train
    assert str(train.run_dir) == "/workspace/runs/team/digits/0123-456"


def test_generated_data_has_held_out_samples() -> None:
    train = resolved({}).train
    assert (train.data.generate, train.data.eval) == ("digits", "eval.jsonl")
    assert train.evaluation.enabled
    assert train.evaluation.baseline


def test_evaluation_without_held_out_samples_is_off_and_said() -> None:
    result = resolved({"data": {"generate": None, "path": "data/a"}})
    assert not result.train.evaluation.enabled
    assert result.notes == ["evaluation is off: there is no data.eval, the file of held-out samples"]
    assert resolved(
        {"data": {"generate": None, "path": "data/a", "eval": "e.jsonl"}}
    ).train.evaluation.enabled


def test_checkpoints_come_every_quarter_of_an_hour_unless_said() -> None:
    assert resolved({}).train.checkpoint.every_minutes == 15
    by_steps = resolved({"checkpoint": {"everySteps": 5}}).train.checkpoint
    assert (by_steps.every_steps, by_steps.every_minutes, by_steps.keep) == (5, None, 2)


def test_adapter_is_exported_where_there_is_one() -> None:
    assert on_gpus("docvqa", "lora").train.export.adapter
    assert not on_gpus("docvqa", "full").train.export.adapter
    assert not on_gpus("docvqa", "lora", export={"adapter": False}).train.export.adapter


def job_on(resources: dict[str, Any], **training: Any) -> FineTuneJob:
    cleared = {"cpu": None, "memory": None}
    asked = {**PAGES, **NOTHING_SAID, "resources": {**cleared, **resources}, "training": training or None}
    return read_job(job(asked))


def memory_of(asked: FineTuneJob) -> str:
    return memory_limit(asked.spec, resolve(asked, namespace="team", uid="0123").train)


@pytest.mark.parametrize(
    ("resources", "cpu", "memory", "shared"),
    [
        ({}, "1", "3Gi", "256Mi"),
        ({"processesPerNode": 2}, "2", "6Gi", "512Mi"),
        ({"gpusPerNode": 8}, "32", "512Gi", "64Gi"),
        ({"cpu": "500m", "memory": "2Gi", "sharedMemory": "1Gi"}, "500m", "2Gi", "1Gi"),
        ({"memory": "100Mi"}, "1", "100Mi", "100Mi"),
        ({"sharedMemory": "9Gi"}, "1", "9Gi", "9Gi"),
    ],
)
def test_pods_resources(resources: dict[str, Any], cpu: str, memory: str, shared: str) -> None:
    asked = job_on(resources)
    assert (cpu_request(asked.spec), memory_of(asked), shared_memory(asked.spec)) == (cpu, memory, shared)


@pytest.mark.parametrize(("gpus", "memory"), [(1, "99Gi"), (8, "549Gi")])
def test_optimizer_off_the_gpu_gets_memory_of_the_pod(gpus: int, memory: str) -> None:
    asked = job_on({"gpusPerNode": gpus}, offloadOptimizer="always", globalBatchSize=64)
    assert memory_of(asked) == memory, "64 GiB a GPU, and half of 18 bytes a parameter"


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1h30m", 5400), ("1.5m", 90), ("0s", 0)])
def test_duration_has_its_length(text: str, value: float) -> None:
    assert seconds(text) == value
