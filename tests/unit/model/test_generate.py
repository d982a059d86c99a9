"""Generation with a cache answers as decoding without one does."""

import pytest
import torch

from harness.tiny_models import sample, small_model
from phitune_trainer.model import Phi3V, Sample, collate, generate

torch.set_num_threads(1)


def decode_step_by_step(model: Phi3V, prompt: Sample, *, max_new_tokens: int, eos_ids: set[int]) -> list[int]:
    ids = prompt.input_ids.tolist()
    answer: list[int] = []
    for _ in range(max_new_tokens):
        grown = Sample(
            input_ids=torch.tensor(ids + answer),
            labels=torch.full((len(ids) + len(answer),), -100),
            pictures=prompt.pictures,
        )
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
