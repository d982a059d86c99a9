"""Generation with a cache answers as decoding without one does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tiny_models import published_positions_model, sample, small_model
from phitune_trainer.model import Phi3V, Sample, collate, generate

torch.set_num_threads(1)


def unlabelled(ids: list[int], like: Sample) -> Sample:
    labels = torch.full((len(ids),), -100)
    return Sample(input_ids=torch.tensor(ids), labels=labels, pictures=like.pictures)


def decode_step_by_step(model: Phi3V, prompt: Sample, *, max_new_tokens: int, eos_ids: set[int]) -> list[int]:
    ids = prompt.input_ids.tolist()
    answer: list[int] = []
    for _ in range(max_new_tokens):
        grown = unlabelled(ids + answer, prompt)
        with torch.no_grad():
            token = int(model.logits(collate([grown]))[-1].argmax())
        if token in eos_ids:
            break
        answer.append(token)
    return answer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_equals_decoding_without_a_cache(attention: str) -> None:
    model = small_model(attention=attention)
    prompts = [
        sample(9, seed=1),
        sample(12, grids=[(2, 1), (1, 1)], seed=2),
        sample(58, seed=3),  # becomes long while it is generated
        sample(64, seed=4),  # with its first token
        sample(80, grids=[(1, 1)], seed=5),
    ]
    together = generate(model, prompts, max_new_tokens=16, eos_ids=set())
    alone = [decode_step_by_step(model, prompt, max_new_tokens=16, eos_ids=set()) for prompt in prompts]
    assert together == alone
    assert len({token for answer in together for token in answer}) > 5, "the model says more than one thing"


@st.composite
def prompts_near_the_border(draw: st.DrawFn) -> list[Sample]:
    """Prompts of several pictures or none, some of which become long (64 tokens) while they are answered."""
    made = []
    for seed in range(draw(st.integers(1, 4))):
        grids = draw(st.lists(st.sampled_from([(1, 1), (2, 1), (1, 2)]), max_size=3))
        pictures = sample(3, grids=grids).num_tokens - 3
        near = st.integers(56, 66).map(lambda whole, pictures=pictures: max(3, whole - pictures))
        made.append(sample(draw(st.integers(3, 70) | near), grids=grids, labels=0, seed=seed))
    return made


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(prompts_near_the_border(), st.sets(st.integers(0, 47), max_size=6))
def test_any_batch_generates_what_its_prompts_do_alone_without_a_cache(
    prompts: list[Sample], eos_ids: set[int]
) -> None:
    model = small_model()
    together = generate(model, prompts, max_new_tokens=9, eos_ids=eos_ids)
    assert together == [
        decode_step_by_step(model, prompt, max_new_tokens=9, eos_ids=eos_ids) for prompt in prompts
    ]


def test_an_answer_that_crosses_4096_tokens_is_the_one_without_a_cache() -> None:
    model = published_positions_model()
    prompts = [sample(4093, labels=0, seed=1), sample(12, labels=0, seed=2)]
    together = generate(model, prompts, max_new_tokens=6, eos_ids=set())
    assert together == [decode_step_by_step(model, p, max_new_tokens=6, eos_ids=set()) for p in prompts]


def test_labels_of_a_prompt_are_not_looked_at() -> None:
    whole = sample(20, grids=[(1, 1)], labels=3)
    bare = replace(whole, labels=torch.full_like(whole.labels, -100))
    answers = generate(small_model(), [whole, bare], max_new_tokens=4, eos_ids=set())
    assert answers[0] == answers[1]


def test_an_answer_ends_before_its_end_token_and_the_others_go_on() -> None:
    model = small_model()
    prompts = [sample(9, seed=seed) for seed in range(4)]
    free = generate(model, prompts, max_new_tokens=12, eos_ids=set())
    eos = free[0][3]
    ended = generate(model, prompts, max_new_tokens=12, eos_ids={eos})
    assert ended == [answer[: answer.index(eos)] if eos in answer else answer for answer in free]
    assert len(ended[0]) <= 3


def test_generation_of_nothing_is_nothing_and_leaves_the_mode_alone() -> None:
    model = small_model().train()
    assert generate(model, [], max_new_tokens=3, eos_ids=set()) == []
    assert generate(model, [sample(9)], max_new_tokens=0, eos_ids=set()) == [[]]
    generate(model, [sample(9)], max_new_tokens=1, eos_ids=set())
    assert model.training
