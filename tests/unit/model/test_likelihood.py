"""How probable a choice is, whatever it is scored together with."""

import torch

from harness.tiny_models import as_prompt, sample, small_model
from phitune_trainer.model import Phi3V, Sample, choice_log_probabilities, collate

torch.set_num_threads(1)

CHOICES = [[3], [5, 7, 40], [], [3, 9], [11] * 12]
PROMPTS = [
    as_prompt(sample(9, seed=1)),
    as_prompt(sample(12, grids=[(2, 1), (1, 1)], seed=2)),
    sample(58, seed=3),  # with some of the choices it is long, with others not
    as_prompt(sample(80, seed=4)),
]


def alone(model: Phi3V, prompt: Sample, choice: list[int]) -> float:
    """The log probability of a choice, from the logits of the whole sequence."""
    ids = torch.cat([prompt.input_ids, torch.tensor(choice, dtype=torch.int64)])
    whole = Sample(input_ids=ids, labels=torch.full_like(ids, -100), pictures=prompt.pictures)
    with torch.no_grad():
        log_probabilities = model.logits(collate([whole])).double().log_softmax(-1)
    first = prompt.num_tokens - 1
    return sum(float(log_probabilities[first + place, token]) for place, token in enumerate(choice))


def test_every_choice_has_the_probability_that_it_has_alone() -> None:
    model = small_model().train()
    scores = choice_log_probabilities(model, PROMPTS, CHOICES)
    expected = [[alone(model, prompt, choice) for choice in CHOICES] for prompt in PROMPTS]
    assert scores.shape == (4, 5)
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-4)
    assert model.training
    assert not scores.requires_grad


def test_the_probabilities_of_all_next_tokens_add_up_to_one() -> None:
    scores = choice_log_probabilities(small_model(), PROMPTS[:2], [[token] for token in range(48)])
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(2))


def test_no_prompt_and_no_choice_have_no_probability() -> None:
    assert choice_log_probabilities(small_model(), [], CHOICES).shape == (0, 5)
    assert choice_log_probabilities(small_model(), PROMPTS, []).shape == (4, 0)
