"""What the rows about work and speed compare: the same samples, the same loss, everything counted."""

import pytest
import torch

from phitune_trainer.init_model import random_weight
from phitune_trainer.model import Phi3V
from phitune_trainer.model.attention import Kernel, eager, sdpa
from phitune_trainer.model_config import full_config, tiny_config
from trainerbench.counted_operations import counting
from trainerbench.docvqa import QUESTIONS, apart, one_question, pages
from trainerbench.speedup import check_same_loss, our_way, recipes_way, small_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Phi3V:
    with torch.device("meta"):
        model = Phi3V(tiny_config())
    weights = {name: random_weight(name, tensor.shape, 0) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model


@pytest.mark.parametrize("kernel", [eager, sdpa])
def test_the_recipes_way_and_ours_compute_the_same_loss(model: Phi3V, kernel: Kernel) -> None:
    some = pages(tiny_config())[1:3]
    questions = [question for page in some for question in apart(page)]
    ours, recipes = our_way(model, [some]), recipes_way(model, questions, kernel=kernel)
    check_same_loss(ours, recipes, tolerance=1e-4)
    assert len(questions) == len(recipes.passes) == 7
    with pytest.raises(AssertionError, match="the losses differ"):
        check_same_loss(
            our_way(model, [[one_question(some[0])]]),
            recipes_way(model, [one_question(pages(tiny_config(), seed=1)[1])], kernel=kernel),
            tolerance=1e-4,
        )


def test_pages_have_the_sizes_of_docvqa() -> None:
    single = [one_question(page) for page in pages(full_config())]
    assert sum(sample.num_tokens for sample in single) / len(single) == pytest.approx(2443, rel=0.01)
    assert sum(QUESTIONS) / len(QUESTIONS) == pytest.approx(3.87, rel=0.03)
    crops = [1 + picture.shape[0] * picture.shape[1] // 336**2 for one in single for picture in one.pictures]
    assert (min(crops), max(crops)) == (13, 17)


@pytest.mark.parametrize("divisor", [4, 8])
def test_a_smaller_model_has_the_published_proportions(divisor: int) -> None:
    small, full = small_config(divisor), full_config()
    assert small.problems() == []
    assert small.head_dim == full.head_dim
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads"):
        assert getattr(small, name) * divisor == getattr(full, name)
    assert small.vision.num_positions == full.vision.num_positions


def test_all_products_are_counted_and_what_cannot_be_counted_is_named() -> None:
    left = torch.randn(4, 3, requires_grad=True)
    with counting() as counted:
        (left @ torch.randn(3, 5)).relu().sum().backward()
    assert counted.flops == 2 * 2 * 4 * 3 * 5  # forward, and the gradient of the left side alone
    assert counted.unknown <= {"aten.randn.default"}
    with counting() as counted:
        torch.linalg.inv(torch.eye(3))
    assert any("linalg_inv" in name for name in counted.unknown)
