"""What the memory model says of the recipe's runs, and what follows from more or less of anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.train_configs import train_config
from phitune_trainer.memory import (
    GPUS,
    Content,
    Gpu,
    Setup,
    choose,
    content_of,
    estimate,
    find_gpu,
    gib,
    gpus_named,
    remedies,
    setup_of,
)
from phitune_trainer.memory.choice import USABLE
from phitune_trainer.memory.counts import trained_parameters
from phitune_trainer.model_config import full_config, tiny_config

GIB = 2**30
PAGE = Content(tokens=2443, crops=17, picture_tokens=2353, label_tokens=40)
"""A page of DocVQA at the recipe's mean length."""
FEWER = replace(PAGE, tokens=900, crops=5, picture_tokens=800)


def setup(method: str = "full", **fields: Any) -> Setup:
    adapters = {} if method == "full" else {"lora_rank": 64, "lora_vision": True}
    return Setup(**{"method": method, "content": PAGE, "ranks": 8, **adapters, **fields})


@pytest.mark.parametrize(
    ("method", "frozen", "ranks", "gpu"),
    [
        ("full", False, 8, "A100-80GB"),
        ("full", False, 8, "V100-32GB"),
        ("full", False, 16, "A100-80GB"),
        ("full", False, 16, "V100-32GB"),
        ("full", False, 32, "A100-80GB"),
        ("full", False, 32, "V100-32GB"),
        ("full", True, 8, "A100-80GB"),
        ("full", True, 8, "V100-32GB"),
        ("lora", False, 8, "A100-80GB"),
        ("lora", False, 8, "V100-32GB"),
        ("qlora", False, 8, "A100-80GB"),
        pytest.param("full", False, 8, "A100-40GB", id="full on ND A100 v4"),
        pytest.param("full", False, 8, "H100", id="full on ND H100 v5"),
        pytest.param("full", False, 4, "RTX-8000", id="full on the recipe's tested minimum"),
    ],
)
def test_every_configuration_of_the_recipe_fits(method: str, frozen: bool, ranks: int, gpu: str) -> None:
    known = GPUS[gpu]
    assert known.memory is not None
    assert known.compute_capability is not None
    precision = "bf16" if known.compute_capability >= (8, 0) else "fp16"
    wanted = setup(method, freeze_vision=frozen, ranks=ranks, precision=precision)
    assert choose(wanted, known.memory, rank_batch=64 // ranks).fits


def test_sizes_are_those_of_a_model_that_is_made_else_the_published_ones(tmp_path: Path) -> None:
    made = train_config(tmp_path)
    on_hub = train_config(tmp_path, {"model": {"init": None, "name": "microsoft/Phi-3.5-vision-instruct"}})
    assert (setup_of(made).model, setup_of(on_hub).model) == (tiny_config(), full_config())
    assert content_of(made).picture_tokens == tiny_config().vision.image_tokens(1, 1)


def test_every_rank_holds_the_weights_and_its_share_of_the_rest() -> None:
    for ranks in (1, 8):
        parts = estimate(setup(ranks=ranks))
        trained = trained_parameters(full_config(), freeze_vision=False)
        assert parts.weights == 2 * 4_146_621_440
        assert parts.gradients == pytest.approx(4 * trained / ranks, abs=4)
        assert parts.optimizer == pytest.approx(12 * trained / ranks, abs=12)
        assert parts.buffers == 2 * (3 * 50_000_000 + 32_064 * 3_072)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_optimizer_on_the_host_takes_no_memory_of_the_gpu_but_gradients_do(precision: str) -> None:
    parts, without = (estimate(setup(offload=offload, precision=precision)) for offload in (True, False))
    assert parts.optimizer == 0
    share = -(-trained_parameters(full_config(), freeze_vision=False) // 8)
    assert parts.gradients == 4 * share
    embedding = 32_064 * 3_072
    there_and_back = (4 if precision == "fp32" else 2) * embedding + 8 * embedding
    assert parts.buffers - without.buffers == there_and_back
    assert parts.total < without.total


def test_matrices_of_the_text_layers_take_four_bits_and_a_scale_for_64_of_them() -> None:
    matrices = 32 * (4 * 3072**2 + 3 * 3072 * 8192)
    saved = estimate(setup("lora")).weights - estimate(setup("qlora")).weights
    assert saved == matrices * 2 - matrices // 2 - matrices // 64 * 4


def test_vision_keeps_nothing_where_it_is_not_trained() -> None:
    assert estimate(setup(freeze_vision=True)).vision == 0
    assert estimate(setup("lora", lora_vision=False)).vision == 0
    assert estimate(setup("lora")).vision > 0


SETUPS = st.builds(
    setup,
    st.sampled_from(["full", "lora", "qlora"]),
    ranks=st.sampled_from([1, 2, 8, 32]),
    precision=st.sampled_from(["bf16", "fp16", "fp32"]),
    attention=st.sampled_from(["sdpa", "flash", "eager"]),
    micro_batch=st.integers(1, 8),
    recompute=st.booleans(),
)


@given(SETUPS)
@settings(deadline=None)
def test_less_work_never_needs_more(wanted: Setup) -> None:
    whole = estimate(wanted).total
    less = [replace(wanted, micro_batch=max(1, wanted.micro_batch - 1)), replace(wanted, content=FEWER)]
    if wanted.method == "full":
        less += [replace(wanted, ranks=2 * wanted.ranks), replace(wanted, freeze_vision=True)]
    if wanted.attention == "eager":
        less.append(replace(wanted, attention="sdpa"))
    if wanted.method == "lora":
        less.append(replace(wanted, lora_vision=False))
    context = GIB  # NCCL's share, which the second rank brings
    for smaller in less:
        assert estimate(smaller).total <= whole + context


@given(SETUPS)
@settings(deadline=None)
def test_recomputing_keeps_less_of_the_layers(wanted: Setup) -> None:
    kept, again = (estimate(replace(wanted, recompute=recompute)) for recompute in (False, True))
    assert again.text + again.vision < kept.text + kept.vision


@given(SETUPS, st.integers(4, 200), st.sampled_from([1, 2, 6, 8, 64]))
@settings(deadline=None)
def test_what_is_chosen_divides_the_share_of_a_rank_and_fits_if_anything_does(
    wanted: Setup, memory: int, rank_batch: int
) -> None:
    choice = choose(wanted, memory * GIB, rank_batch=rank_batch)
    assert rank_batch % choice.setup.micro_batch == 0
    smallest = replace(wanted, micro_batch=1, recompute=True)
    ways = [smallest, replace(smallest, offload=True)] if wanted.method == "full" else [smallest]
    assert choice.fits or all(estimate(way).total > USABLE * memory * GIB for way in ways)
    assert f"of {gib(memory * GIB)} GiB" in choice.reason


@given(SETUPS, st.integers(4, 200), st.sampled_from([1, 8]))
@settings(deadline=None)
def test_optimizer_goes_to_the_host_only_where_nothing_fits_with_it_on_the_gpu(
    wanted: Setup, memory: int, rank_batch: int
) -> None:
    choice = choose(wanted, memory * GIB, rank_batch=rank_batch)
    stays = choose(wanted, memory * GIB, rank_batch=rank_batch, offload=False)
    assert choice == stays if stays.fits else choice.estimate.total <= stays.estimate.total
    assert not choice.setup.offload or wanted.method == "full"
    assert ("optimizer on the host" in choice.reason) == choice.setup.offload


def test_two_consumer_gpus_train_all_weights_with_the_optimizer_on_the_host() -> None:
    memory = GPUS["RTX-4090"].memory
    assert memory is not None
    choice = choose(setup(ranks=2), memory, rank_batch=32)
    assert (choice.fits, choice.setup.offload, choice.setup.recompute) == (True, True, True)
    assert "; optimizer on the host (about 35 GiB for each GPU), since " in choice.reason
    assert "since with it on the GPU at least 42 GiB are needed: about 21 of 24 GiB" in choice.reason


def test_what_was_asked_for_is_not_chosen() -> None:
    choice = choose(setup(), 10 * GIB, rank_batch=8, micro_batch=4, recompute=False, offload=False)
    assert (choice.setup.micro_batch, choice.setup.recompute, choice.setup.offload) == (4, False, False)
    assert not choice.fits
    assert choose(setup(), 80 * GIB, rank_batch=8, offload=True).setup.offload


def test_activations_are_kept_where_there_is_room() -> None:
    assert not choose(setup("lora"), 80 * GIB, rank_batch=8).setup.recompute
    tight = choose(setup("lora"), 24 * GIB, rank_batch=8)
    assert tight.setup.recompute
    assert "since keeping them needs about" in tight.reason


def test_remedies_let_a_run_fit_by_one_change_each() -> None:
    choice = choose(setup(ranks=2), 32 * GIB, rank_batch=32, offload=False)
    assert not choice.fits
    found = remedies(choice, fewer_crops=FEWER)
    assert [remedy.change for remedy in found] == [
        "4 GPUs in all",
        "training.offloadOptimizer: auto",
        "method: lora",
        "method: qlora",
    ]
    assert all(remedy.estimate.total <= USABLE * choice.memory for remedy in found)


def test_remedies_of_a_run_that_is_too_large_even_with_its_optimizer_on_the_host() -> None:
    choice = choose(setup(ranks=1), 22 * GIB, rank_batch=64)
    assert (choice.fits, choice.setup.offload) == (False, True)
    found = {remedy.change: remedy.setup for remedy in remedies(choice, fewer_crops=FEWER)}
    assert list(found) == ["2 GPUs in all", "method: lora", "method: qlora"]
    assert [setup.offload for setup in found.values()] == [True, False, False]


def test_remedies_of_a_batch_and_of_kept_activations_that_were_asked_for() -> None:
    choice = choose(setup("lora"), 24 * GIB, rank_batch=8, micro_batch=8, recompute=False)
    changes = [remedy.change for remedy in remedies(choice, fewer_crops=FEWER)]
    assert changes == ["training.perDeviceBatchSize: 1 with training.gradientCheckpointing: auto"]


def test_nothing_helps_where_the_weights_alone_are_too_much() -> None:
    assert remedies(choose(setup("qlora"), 2 * GIB, rank_batch=8), fewer_crops=FEWER) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40GB"),
        ("Tesla-V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("Quadro RTX 8000", "RTX-8000"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("Tesla-T4", "T4"),
        ("NVIDIA-L40S", "L40S"),
        ("l4", "L4"),
        ("A100", None),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", None),
        ("Voodoo2", None),
    ],
)
def test_gpu_is_found_by_the_label_of_its_product(name: str, found: str | None) -> None:
    assert find_gpu(name) == (GPUS[found] if found else None)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A100-80GB", ["A100-80GB"]),
        ("A100-40GB", ["A100-40GB"]),
        ("H100", ["H100"]),
        ("H200", ["H200"]),
        ("V100", ["V100-32GB", "V100-16GB"]),
        ("RTX 8000", ["RTX-8000"]),
        ("L40S", ["L40S"]),
        ("RTX 4090", ["RTX-4090"]),
        ("RTX 5090", ["RTX-5090"]),
        ("T4", ["T4"]),
        ("A10", ["A10"]),
        ("l4", ["L4"]),
        ("A100", ["A100-80GB", "A100-40GB"]),
        ("Voodoo2", []),
        ("", []),
    ],
)
def test_gpus_are_found_by_what_people_call_them(name: str, found: list[str]) -> None:
    assert [gpu.name for gpu in gpus_named(name)] == found


def test_every_gpu_has_memory_and_compute_capability() -> None:
    assert len(GPUS) >= 12
    for name, gpu in GPUS.items():
        assert isinstance(gpu, Gpu)
        assert gpu.name == name
        assert gpu.memory is not None
        assert gpu.memory > 14 * GIB
        assert gpu.compute_capability is not None
        assert gpu.compute_capability >= (7, 0)
