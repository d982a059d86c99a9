from dataclasses import replace

import pytest
import torch

from phitune_trainer.batch_flops import batch_flops
from phitune_trainer.config import Precision
from phitune_trainer.flops import Amounts, Trained, amounts_of, model_flops, necessary_flops
from phitune_trainer.model import Sample, collate
from phitune_trainer.model.inputs import IGNORED, Branch
from phitune_trainer.model_config import full_config, tiny_config
from phitune_trainer.peak_flops import peak_flops

FULL = Trained(method="full")
FROZEN = Trained(method="full", freeze_vision=True)
LORA = Trained(method="lora", lora_rank=64, lora_vision=True)
PAGE = amounts_of([(2443, ())], crops=17, picture_tokens=2353, label_tokens=10)
"""The mean sample of DocVQA that the recipe's figures are for."""


@pytest.mark.parametrize(
    ("trained", "tera"),
    [
        pytest.param(FULL, 77.1, id="full"),
        pytest.param(FROZEN, 64.4, id="vision frozen"),
        pytest.param(LORA, 54.5, id="LoRA"),
        pytest.param(replace(LORA, method="qlora"), 54.5, id="QLoRA counts as LoRA"),
    ],
)
def test_a_page_takes_the_flops_that_the_recipe_names(trained: Trained, tera: float) -> None:
    assert round(model_flops(full_config(), trained, PAGE) / 1e12, 1) == tera


def test_language_and_clip_take_the_shares_that_the_recipe_names() -> None:
    text = replace(PAGE, crops=0, picture_tokens=0)
    language = model_flops(full_config(), FULL, text) / 3
    assert round(language / 1e12, 2) == 19.36
    without_attention = model_flops(full_config(), FULL, replace(text, pairs=0)) / 3
    assert round((language - without_attention) / 1e12, 2) == 1.17
    frozen = model_flops(full_config(), FROZEN, replace(PAGE, picture_tokens=0))
    assert round((frozen - 3 * language) / 1e12, 2) == 6.22
    projector = model_flops(full_config(), FROZEN, PAGE) - frozen
    assert round(projector / 1e12, 1) == 0.1


def test_what_is_necessary_leaves_out_logits_without_a_label_and_counts_whole_squares() -> None:
    config = full_config()
    logits = 3 * 2 * (PAGE.tokens - PAGE.label_tokens) * config.hidden_size * config.vocab_size
    attention = 3 * 4 * (PAGE.squares - PAGE.pairs) * config.num_layers * config.hidden_size
    assert necessary_flops(config, FULL, PAGE) == model_flops(config, FULL, PAGE) - logits + attention


def test_adapters_on_the_language_alone_take_less() -> None:
    language = Trained(method="lora", lora_rank=64)
    for flops in (model_flops, necessary_flops):
        assert flops(full_config(), language, PAGE) < flops(full_config(), LORA, PAGE)


def test_questions_that_share_a_page_attend_to_it_and_to_themselves_alone() -> None:
    shared = amounts_of([(10, (2, 3))], crops=0, picture_tokens=0, label_tokens=0)
    assert shared.tokens == 15
    assert shared.squares == 10 * 10 + 2 * (10 + 2) + 3 * (10 + 3)
    assert shared.pairs == (10 * 10 + 2 * (20 + 2) + 3 * (20 + 3)) // 2


def test_segments_add_up() -> None:
    row = amounts_of([(4, ()), (6, ())], crops=2, picture_tokens=3, label_tokens=1)
    assert row == Amounts(tokens=10, pairs=26, squares=52, crops=2, picture_tokens=3, label_tokens=1)
    config = tiny_config()
    parts = [amounts_of([(n, ())], crops=1, picture_tokens=k, label_tokens=0) for n, k in ((4, 1), (6, 2))]
    assert model_flops(config, FULL, row) == sum(model_flops(config, FULL, part) for part in parts)


@pytest.mark.parametrize(
    ("product", "precision", "tera"),
    [
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312),
        ("NVIDIA-A100-PCIE-40GB", "bf16", 312),
        ("NVIDIA A10", "bf16", 125),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("Tesla T4", "fp16", 65),
    ],
)
def test_peak_of_a_product_by_the_name_that_its_driver_gives(
    product: str, precision: Precision, tera: int
) -> None:
    assert peak_flops(product, precision) == tera * 1e12


@pytest.mark.parametrize(
    ("product", "precision"),
    [
        pytest.param("NVIDIA A10G", "bf16", id="another product"),
        pytest.param("Tesla V100-SXM2-32GB", "bf16", id="no bf16 there"),
        pytest.param("NVIDIA H100", "fp32", id="fp32"),
        pytest.param("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", id="a slice of a GPU"),
        pytest.param("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", id="a slower one of the name"),
    ],
)
def test_a_peak_that_is_not_known_is_not_guessed(product: str, precision: Precision) -> None:
    assert peak_flops(product, precision) is None


def test_a_batch_counts_the_crops_and_tokens_that_it_holds() -> None:
    config = tiny_config()
    tokens = config.vision.image_tokens(2, 1)
    branch = Branch(input_ids=torch.tensor([5, 6]), labels=torch.tensor([IGNORED, 6]))
    page = Sample(
        input_ids=torch.tensor([-1] * tokens),
        labels=torch.full((tokens,), IGNORED),
        pictures=(torch.zeros(2 * 84, 84, 3, dtype=torch.uint8),),
        branches=(branch, branch),
    )
    text = Sample(input_ids=torch.tensor([5, 6, 7]), labels=torch.tensor([IGNORED, 6, 7]))
    batch = collate([page, text], original_max_positions=config.original_max_positions)
    expected = amounts_of([(tokens, (2, 2)), (3, ())], crops=3, picture_tokens=tokens, label_tokens=4)
    assert batch_flops(batch, config=config, trained=FULL) == model_flops(config, FULL, expected)
