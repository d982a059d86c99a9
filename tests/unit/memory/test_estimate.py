"""What the memory model says of the recipe's runs, and what follows from more or less of anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phitune_trainer.memory import (
    GPUS,
    Content,
    Gpu,
    Setup,
    choose,
    estimate,
    find_gpu,
    gib,
    remedies,
)
from phitune_trainer.memory.choice import USABLE

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


def test_every_rank_holds_the_weights_and_its_share_of_the_rest() -> None:
    for ranks in (1, 8):
        parts = estimate(setup(ranks=ranks))
        trained = setup().shape.trained_parameters(freeze_vision=False)
        assert parts.weights == 2 * 4_146_621_440
        assert parts.gradients == pytest.approx(4 * trained / ranks, abs=4)
        assert parts.optimizer == pytest.approx(12 * trained / ranks, abs=12)


def test_optimizer_on_the_host_takes_no_memory_of_the_gpu() -> None:
    parts = estimate(setup(offload=True))
    assert (parts.gradients, parts.optimizer, parts.optimizer_step) == (0, 0, 0)
    assert parts.buffers > estimate(setup()).buffers


def test_quantised_weights_are_well_below_half() -> None:
    assert estimate(setup("qlora")).weights < 0.5 * estimate(setup("lora")).weights


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
def test_recomputing_keeps_less_of_the_layers(wanted: Setup) -> None:
    kept, again = (estimate(replace(wanted, recompute=recompute)) for recompute in (False, True))
    assert again.text + again.vision < kept.text + kept.vision


@given(SETUPS, st.integers(4, 200), st.sampled_from([1, 2, 6, 8, 64]))
def test_what_is_chosen_divides_the_share_of_a_rank_and_fits_if_anything_does(
    wanted: Setup, memory: int, rank_batch: int
) -> None:
    choice = choose(wanted, memory * GIB, rank_batch=rank_batch)
    assert rank_batch % choice.setup.micro_batch == 0
    smallest = estimate(replace(wanted, micro_batch=1, recompute=True))
    assert choice.fits or smallest.total > USABLE * memory * GIB
    assert f"of {gib(memory * GIB)} GiB" in choice.reason


def test_what_was_asked_for_is_not_chosen() -> None:
    choice = choose(setup(), 10 * GIB, rank_batch=8, micro_batch=4, recompute=False)
    assert (choice.setup.micro_batch, choice.setup.recompute) == (4, False)
    assert not choice.fits


def test_activations_are_kept_where_there_is_room() -> None:
    assert not choose(setup("lora"), 80 * GIB, rank_batch=8).setup.recompute
    tight = choose(setup("lora"), 24 * GIB, rank_batch=8)
    assert tight.setup.recompute
    assert "since keeping them needs about" in tight.reason


def test_remedies_let_a_run_fit_by_one_change_each() -> None:
    choice = choose(setup(ranks=2), 32 * GIB, rank_batch=32)
    assert not choice.fits
    found = remedies(choice, fewer_crops=FEWER)
    assert [remedy.change for remedy in found] == ["4 GPUs in all", "method: lora", "method: qlora"]
    assert all(remedy.estimate.total <= USABLE * choice.memory for remedy in found)


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


def test_every_gpu_has_memory_and_compute_capability() -> None:
    assert len(GPUS) >= 12
    for name, gpu in GPUS.items():
        assert isinstance(gpu, Gpu)
        assert gpu.name == name
        assert gpu.memory is not None
        assert gpu.memory > 14 * GIB
        assert gpu.compute_capability is not None
        assert gpu.compute_capability >= (7, 0)
