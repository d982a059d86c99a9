"""Sequences that share a prefix give the numbers that each of them gives alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tiny_models import gpu_with_flash, gradients, published_positions_model, sample, small_model
from phitune_trainer.model import Batch, Branch, Phi3V, Sample, collate
from phitune_trainer.model.inputs import IGNORED, Segment

torch.set_num_threads(1)

BORDER = 64
"""Longest sequence of the small model that uses the short rotary factors."""


def branched(
    length: int, branches: Sequence[int], *, grids: Sequence[tuple[int, int]] = (), seed: int = 0
) -> Sample:
    """A page of `length` words (and pictures) and branches of these lengths, two thirds of them trained."""
    generator = torch.Generator().manual_seed(seed + 1000)
    made = []
    for number, tokens in enumerate(branches):
        ids = torch.randint(0, 48, (tokens,), generator=generator)
        place = torch.arange(tokens)
        labels = ids.masked_fill((place > 0) & (place % 3 == number % 3), IGNORED)
        made.append(Branch(input_ids=ids, labels=labels))
    return replace(sample(length, grids=grids, labels=0, seed=seed), branches=tuple(made))


def sequences(whole: Sample) -> list[Sample]:
    """The sequences that a sample stands for, each a sample of its own."""
    return [
        replace(
            whole,
            input_ids=torch.cat([whole.input_ids, branch.input_ids]),
            labels=torch.cat([whole.labels, branch.labels]),
            branches=(),
        )
        for branch in whole.branches
    ] or [whole]


def collate_shared(samples: Sequence[Sample]) -> Batch:
    return collate(samples, original_max_positions=BORDER)


def assert_as_if_alone(model: Phi3V, samples: Sequence[Sample], batch: Batch) -> None:
    """The logits of all labels, the loss and all gradients are those of the sequences one by one."""
    alone = [collate([sequence]) for whole in samples for sequence in sequences(whole)]
    with torch.no_grad():
        expected_logits = torch.cat([model.logits(one)[one.label_positions] for one in alone])
        logits = model.logits(batch)[batch.label_positions]
    assert batch.labels.tolist() == [label for one in alone for label in one.labels.tolist()]
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-5)

    losses = []
    for one in alone:
        loss = model(one)
        loss.backward()
        losses.append(loss.detach())
    expected = gradients(model)
    together = model(batch)
    together.backward()
    found = gradients(model)
    torch.testing.assert_close(together.detach(), torch.stack(losses).sum(), rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=0, atol=1e-5, msg=name)


SHORT = branched(20, [7, 1, 12], seed=1)
LONG = branched(66, [5, 9], seed=2)
BOTH_SIDES = branched(30, [40, 3, 34, 35, 9], seed=3)
WITH_PICTURES = branched(12, [30, 8, 60], grids=[(2, 1), (1, 1)], seed=4)

MIXES = [
    pytest.param([SHORT], id="short"),
    pytest.param([LONG], id="long"),
    pytest.param([BOTH_SIDES, sample(9, seed=7)], id="on both sides of the border"),
    pytest.param([sample(70, seed=8), WITH_PICTURES, sample(8, grids=[(1, 2)], seed=9)], id="pictures"),
    pytest.param(
        [branched(30, [4, 0, 3], seed=5), branched(9, [2], seed=6)], id="an empty branch, a lone one"
    ),
    pytest.param([SHORT, replace(SHORT, where="again"), sample(20, seed=1)], id="the same shape twice"),
]


@pytest.mark.parametrize("samples", MIXES)
def test_branches_are_trained_as_if_each_were_alone(samples: list[Sample]) -> None:
    assert_as_if_alone(small_model(), samples, collate_shared(samples))


def test_eager_attention_trains_branches_as_if_each_were_alone() -> None:
    samples = [BOTH_SIDES, WITH_PICTURES]
    assert_as_if_alone(small_model(attention="eager"), samples, collate_shared(samples))


@st.composite
def mixes(draw: st.DrawFn) -> list[Sample]:
    """Samples of all kinds, many of them close to the border."""
    made = []
    for seed in range(draw(st.integers(1, 4))):
        grids = draw(st.lists(st.sampled_from([(1, 1), (2, 1), (1, 2)]), max_size=2))
        length = draw(st.integers(3, 75))
        if draw(st.booleans()):
            made.append(sample(length, grids=grids, labels=draw(st.integers(0, 2)), seed=seed))
            continue
        to_border = max(1, BORDER - sample(length, grids=grids).num_tokens)
        near = st.sampled_from([to_border - 1, to_border, to_border + 1])
        made.append(
            branched(length, draw(st.lists(st.integers(0, 9) | near, max_size=4)), grids=grids, seed=seed)
        )
    return made


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(mixes())
def test_any_mix_of_samples_gives_what_its_sequences_give_alone(samples: list[Sample]) -> None:
    assert_as_if_alone(small_model(), samples, collate_shared(samples))


def test_branches_on_both_sides_of_4096_tokens_are_trained_as_if_alone() -> None:
    samples = [branched(4090, [7, 6], seed=1)]
    batch = collate(samples, original_max_positions=4096)
    assert batch.segments == (Segment(4090, (6,)), Segment(4090, (7,)))
    assert_as_if_alone(published_positions_model(), samples, batch)


def test_a_prefix_shared_across_the_border_would_change_the_numbers() -> None:
    model = small_model()
    right, wrong = (collate([BOTH_SIDES], original_max_positions=border) for border in (BORDER, 1000))
    with torch.no_grad():
        expected, found = (model.logits(batch)[batch.label_positions] for batch in (right, wrong))
    assert (found - expected).abs().max() > 1e-3


def test_with_flash_attention_in_bf16_sequences_give_what_they_give_alone() -> None:
    device = gpu_with_flash()
    model = small_model(attention="flash").to(device, torch.bfloat16)
    samples = [BOTH_SIDES, WITH_PICTURES, sample(70, seed=8)]
    batches = [collate([one]).to(device) for whole in samples for one in sequences(whole)]
    together = collate_shared(samples).to(device)
    with torch.no_grad():
        expected = torch.cat([model.logits(batch)[batch.label_positions] for batch in batches])
        found = model.logits(together)[together.label_positions]
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-2)


def test_a_prefix_is_laid_out_once_for_each_kind_of_rotary_factors() -> None:
    batch = collate_shared([BOTH_SIDES, SHORT])
    assert batch.segments == (Segment(30, (3, 34, 9)), Segment(30, (40, 35)), Segment(20, (7, 1, 12)))
    assert batch.num_tokens == len(batch.input_ids) == 60 + 121 + 40
    assert batch.num_samples == 2


def test_without_knowing_the_border_no_prefix_is_shared_and_the_numbers_are_the_same() -> None:
    samples = [BOTH_SIDES, WITH_PICTURES]
    batch = collate(samples)
    assert all(len(segment.branches) == 1 for segment in batch.segments)
    assert_as_if_alone(small_model(), samples, batch)


def test_pictures_are_embedded_once_however_often_their_prefix_is_laid_out() -> None:
    batch = collate_shared([WITH_PICTURES])
    assert len(batch.segments) == 2
    assert batch.num_images == 2
    assert len(batch.picture_positions) == 2 * batch.num_picture_tokens


def test_labels_come_in_the_order_of_the_branches_and_share_the_end_of_the_prefix() -> None:
    batch = collate_shared([BOTH_SIDES])
    first = [int(branch.input_ids[0]) for branch in BOTH_SIDES.branches]
    ends = [29, 30 + 46 + 29]  # of the prefix of the short ones, and of the long ones
    at_ends = [
        (place, label)
        for place, label in zip(batch.label_positions.tolist(), batch.labels.tolist(), strict=True)
        if place in ends
    ]
    assert at_ends == list(zip([ends[1], ends[0], ends[0], ends[1], ends[0]], first, strict=True))


def test_gradient_checkpointing_changes_nothing_in_branches() -> None:
    model = small_model()
    batch = collate_shared([BOTH_SIDES, WITH_PICTURES])
    model(batch).backward()
    expected = gradients(model)
    model.set_gradient_checkpointing(True)
    model(batch).backward()
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=0)


def test_tokens_and_labels_of_branches_are_counted() -> None:
    assert SHORT.num_tokens == 20 + 7 + 1 + 12
    assert SHORT.num_label_tokens == sum(int((b.labels != IGNORED).sum()) for b in SHORT.branches) > 10


def labelled(whole: Sample, place: int) -> Sample:
    labels = whole.labels.clone()
    labels[place] = 1
    return replace(whole, labels=labels)


def with_picture_in_branch(whole: Sample) -> Sample:
    ids = torch.tensor([-1])
    return replace(whole, branches=(Branch(input_ids=ids, labels=torch.tensor([IGNORED])),))


def without_prefix(whole: Sample) -> Sample:
    return replace(whole, input_ids=whole.input_ids[:0], labels=whole.labels[:0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(lambda: labelled(sample(5), 0), "a:1: the first token has a label", id="first token"),
        pytest.param(lambda: labelled(SHORT, 4), "has labels outside of them", id="label in the prefix"),
        pytest.param(lambda: with_picture_in_branch(SHORT), "a branch has a picture", id="picture"),
        pytest.param(lambda: without_prefix(SHORT), "has nothing before them", id="no prefix"),
    ],
)
def test_a_sample_that_cannot_be_trained_is_refused_with_its_place(
    wrong: Callable[[], Sample], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        collate([replace(wrong(), where="a:1")])
