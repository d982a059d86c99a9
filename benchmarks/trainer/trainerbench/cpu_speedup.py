"""How much faster a step is than the recipe's way, on this machine's processor and a smaller model."""

import statistics
from functools import partial

from benchrows.row import Bar, Row, Workplace
from trainerbench.alone import alone

DIVISOR = 8
"""Of widths, layers and vocabulary: a row then takes about three minutes on two cores."""
ROUNDS = 3
TOLERANCE = 1e-4
"""Relative, of the loss in float32."""


def measure(of_questions: bool, work: Workplace) -> float:
    """Seconds that the recipe's way takes for a question / that ours does, medians over the rounds."""
    times = alone(compare, of_questions)
    recipe, ours = (statistics.median(pair[way] for pair in times) for way in (0, 1))
    work.say(f"the recipe's way {recipe:.2f} s, ours {ours:.2f} s a question (medians)")
    return recipe / ours


def compare(of_questions: bool) -> list[tuple[float, float]]:
    """Seconds a question of the recipe's way and of ours, for each round.

    Of a page the recipe's way trains one question at a time. Ours trains the same one, or with `of_questions`
    all of them.
    """
    import torch

    from phitune_trainer.engine.data_parallel import DataParallel
    from phitune_trainer.engine.world import alone as world_alone
    from phitune_trainer.init_model import random_weight
    from phitune_trainer.methods.full import train_all
    from phitune_trainer.model import Phi3V
    from phitune_trainer.model.attention import eager
    from trainerbench.docvqa import apart, one_question, pages
    from trainerbench.speedup import check_same_loss, our_way, recipes_way, rounds, small_config

    config = small_config(DIVISOR)
    with torch.device("meta"):
        model = Phi3V(config)
    weights = {name: random_weight(name, tensor.shape, 0) for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    train_all(model, freeze_vision=False)
    with_all = pages(config)
    with_one = [one_question(page) for page in with_all]
    trained = with_all if of_questions else with_one
    check_same_loss(
        our_way(model, [trained[:1]]),
        recipes_way(model, list(apart(trained[0])) if of_questions else trained[:1], kernel=eager),
        tolerance=TOLERANCE,
    )
    num_ours = sum(len(page.branches) for page in with_all) if of_questions else len(with_one)
    with world_alone(torch.device("cpu")) as world:
        engine = DataParallel(model, world, weight_decay=0.01, precision="fp32")
        ways = [recipes_way(model, with_one, kernel=eager), our_way(model, [trained])]
        times = rounds(engine, ways, world.device, count=ROUNDS)
    return [(recipe / len(with_one), ours / num_ours) for recipe, ours in times]


ROWS = (
    Row(
        name="cpu_step_speedup",
        unit="times",
        bar=Bar(sign=">=", limit=1.6),
        summary="a step of the recipe's way / ours, one question a page",
        measure=partial(measure, False),
    ),
    Row(
        name="cpu_question_speedup",
        unit="times",
        bar=Bar(sign=">=", limit=5.0),
        summary="the same for each question, ours with all questions of a page at once",
        measure=partial(measure, True),
    ),
)
