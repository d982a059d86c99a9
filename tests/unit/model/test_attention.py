"""The attention kernels, what a packed row attends to, and what happens where one is not available."""

import pytest
import torch
from torch import Tensor

from harness.tiny_models import gpu_with_flash, sample, small_config, small_model
from phitune_trainer.model import Phi3V, collate
from phitune_trainer.model.attention import PackedAttention, branch_mask, eager, sdpa
from phitune_trainer.model.flash import FlashAttention, VarlenPlan, varlen_plan, why_not
from phitune_trainer.model.inputs import Segment
from phitune_trainer.model.kernels import ATTENTIONS

torch.set_num_threads(1)

SEGMENTS = (
    Segment(5),
    Segment(4, (3, 0, 2)),
    Segment(4, (3, 0, 2)),
    Segment(0),
    Segment(7, (0,)),
    Segment(5),
)
"""Plain, with branches (an empty one too), twice the same shape, of no tokens at all."""


def random_row(heads: int = 2, head_dim: int = 8, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = sum(segment.length for segment in SEGMENTS)
    return list(torch.randn(3, length, heads, head_dim, generator=generator).to(dtype))


@pytest.mark.parametrize(
    "what", [{"causal": True}, {}, {"mask": torch.ones(9, 9, dtype=torch.bool).tril(3)}], ids=str
)
def test_eager_and_fused_attention_agree(what: dict[str, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=generator)
    torch.testing.assert_close(sdpa(query, key, value, **what), eager(query, key, value, **what))


def test_a_branch_sees_its_prefix_and_what_it_has_said_itself() -> None:
    expected = [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    mask = branch_mask(Segment(2, (2, 0, 1)), torch.device("cpu"))
    assert mask.int().tolist() == expected


def by_varlen(plan: VarlenPlan, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What a variable-length kernel is documented to do: queries are the last of their sequence's keys."""
    queries, keys, values = (torch.split(x, plan.parts) for x in (query, key, value))
    outputs = []
    for number, parts in enumerate(plan.keys):
        own = [torch.cat([x[part] for part in parts]).transpose(0, 1) for x in (keys, values)]
        length, num_keys = plan.parts[number], plan.key_lengths[number]
        mask = torch.ones(length, num_keys, dtype=torch.bool).tril(num_keys - length)
        outputs.append(eager(queries[number].transpose(0, 1), own[0], own[1], mask=mask).transpose(0, 1))
    return torch.cat(outputs)


def test_the_sequences_of_a_variable_length_kernel_are_those_of_the_row() -> None:
    query, key, value = random_row()
    expected = PackedAttention(SEGMENTS, query, kernel=sdpa)(0, query, key, value)
    torch.testing.assert_close(by_varlen(varlen_plan(SEGMENTS), query, key, value), expected)
    plain = varlen_plan([Segment(3), Segment(4)])
    assert plain.parts == plain.key_lengths == (3, 4)


def test_attention_that_is_not_built_in_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match="'fast' is not available here; use one of eager, flash, sdpa"):
        Phi3V(small_config(), attention="fast")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flash_attention_says_why_it_cannot_run(dtype: torch.dtype) -> None:
    model = small_model(attention="flash").to(dtype)
    with pytest.raises(ValueError, match="flash cannot run here: it needs a GPU, this is cpu; use sdpa"):
        model(collate([sample(9)]))


def test_flash_needs_bf16() -> None:
    reason = why_not(gpu_with_flash(), torch.float16)
    assert reason == "it needs bf16, this is float16"


def test_flash_attention_and_its_gradients_are_those_of_sdpa() -> None:
    device = gpu_with_flash()
    row = [x.to(device) for x in random_row(head_dim=96, dtype=torch.bfloat16)]
    exact = [x.double().requires_grad_() for x in row]
    weight = torch.randn_like(exact[0])
    expected = PackedAttention(SEGMENTS, exact[0], kernel=eager)(0, *exact)
    (expected * weight).sum().backward()
    for attention in (FlashAttention, ATTENTIONS["sdpa"].row):
        tried = [x.clone().requires_grad_() for x in row]
        output = attention(SEGMENTS, tried[0])(0, *tried)
        (output.double() * weight).sum().backward()
        torch.testing.assert_close(output.double(), expected, rtol=2e-2, atol=2e-2)
        for ours, theirs in zip(tried, exact, strict=True):
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=5e-2, atol=5e-2)
