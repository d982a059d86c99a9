"""The learning rate of every step."""

import math

import pytest

from phitune_trainer.schedule import learning_rate, schedule_in_words


def test_rises_linearly_from_zero_to_the_peak() -> None:
    rates = [
        learning_rate(step, peak=8.0, warmup_steps=4, total_steps=10, schedule="linear") for step in range(5)
    ]
    assert rates == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        pytest.param("linear", lambda done: 1 - done, id="linear"),
        pytest.param("cosine", lambda done: (1 + math.cos(math.pi * done)) / 2, id="cosine"),
        pytest.param("constant", lambda done: 1.0, id="constant"),
    ],
)
def test_equals_its_formula_at_every_step_after_the_warmup(schedule, share) -> None:
    for step in range(5, 25):
        rate = learning_rate(step, peak=3e-4, warmup_steps=5, total_steps=25, schedule=schedule)
        assert rate == pytest.approx(3e-4 * share((step - 5) / 20), rel=1e-12)


def test_a_run_shorter_than_its_warmup_never_reaches_the_peak() -> None:
    assert learning_rate(2, peak=1.0, warmup_steps=50, total_steps=3, schedule="cosine") == pytest.approx(
        0.04
    )


@pytest.mark.parametrize(
    ("total_steps", "gets_there"),
    [
        pytest.param(19, False, id="few samples"),
        pytest.param(50, False, id="just not"),
        pytest.param(51, True),
    ],
)
def test_a_run_that_is_over_before_its_warm_up_is_told(total_steps: int, gets_there: bool) -> None:
    rates = [
        learning_rate(step, peak=4e-5, warmup_steps=50, total_steps=total_steps, schedule="linear")
        for step in range(total_steps)
    ]
    assert (max(rates) == 4e-5) == gets_there
    said = schedule_in_words("linear", 4e-5, 50, total_steps=total_steps)
    assert ("a lower training.warmupSteps" in said) != gets_there
