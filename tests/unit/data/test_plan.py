"""Who computes which samples of a step: every one of them once, and no rank much longer than the others."""

import random
from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from phitune_trainer.data.plan import equal_cost, share_out
from phitune_trainer.data.sampler import split

COSTS = st.lists(st.integers(0, 60), min_size=1, max_size=40)
WORLDS = st.integers(1, 9)
MICRO_BATCHES = st.integers(1, 9)


def by_position(costs: list[int], *, world: int, micro_batch: int) -> list[list[list[int]]]:
    """A step of the samples 0, 1, 2, ... that cost this much."""
    return share_out(range(len(costs)), costs.__getitem__, world=world, micro_batch=micro_batch)


def totals(plan: list[list[list[int]]], costs: list[int]) -> list[int]:
    """What each rank has to do."""
    return [sum(costs[index] for piece in rank for index in piece) for rank in plan]


@given(indices=st.lists(st.integers(0, 9), max_size=40), world=WORLDS, micro_batch=MICRO_BATCHES)
def test_ranks_share_a_step_without_loss_and_in_equally_many_passes(
    indices: list[int], world: int, micro_batch: int
) -> None:
    plan = share_out(indices, lambda index: index, world=world, micro_batch=micro_batch)
    assert Counter(index for rank in plan for piece in rank for index in piece) == Counter(indices)
    assert len(plan) == world
    largest_share = -(-len(indices) // world)
    assert {len(rank) for rank in plan} == {-(-largest_share // micro_batch)}
    assert all(len(piece) <= micro_batch for rank in plan for piece in rank)


@given(costs=COSTS, world=WORLDS, micro_batch=MICRO_BATCHES)
def test_no_rank_has_more_to_do_than_if_they_took_turns(
    costs: list[int], world: int, micro_batch: int
) -> None:
    in_turn = [sum(costs[rank::world]) for rank in range(world)]
    assert max(totals(by_position(costs, world=world, micro_batch=micro_batch), costs)) <= max(in_turn)


@given(costs=st.lists(st.integers(0, 60), min_size=6, max_size=6), world=st.sampled_from([2, 3]))
def test_the_busiest_rank_has_at_most_a_third_more_to_do_than_in_the_best_of_all_plans(
    costs: list[int], world: int
) -> None:
    """Against every way to give each rank the same number of samples."""
    each = len(costs) // world
    best = min(
        max(sum(c for c, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(world))
        for owners in product(range(world), repeat=len(costs))
        if all(owners.count(rank) == each for rank in range(world))
    )
    found = max(totals(by_position(costs, world=world, micro_batch=each), costs))
    assert 3 * found <= 4 * best


@given(passes=st.integers(1, 4), world=WORLDS, micro_batch=MICRO_BATCHES)
def test_samples_that_nobody_has_measured_go_to_the_ranks_in_turn(
    passes: int, world: int, micro_batch: int
) -> None:
    count = passes * world * micro_batch
    plan = share_out(range(count), equal_cost, world=world, micro_batch=micro_batch)
    assert plan == [
        split(range(count), rank=rank, world=world, micro_batch=micro_batch) for rank in range(world)
    ]


def test_ranks_of_a_mixed_step_wait_little_for_each_other() -> None:
    """Short text beside pages: in turn, the busiest of 8 ranks has half as much again to do as the mean."""
    rng = random.Random(0)
    costs = [rng.choice([60, 300, 2400, 5000]) for _ in range(64)]
    in_turn = [sum(costs[rank::8]) for rank in range(8)]
    found = totals(by_position(costs, world=8, micro_batch=4), costs)
    mean = sum(costs) / 8
    assert max(in_turn) / mean > 1.3
    assert max(found) / mean < 1.1


def test_long_samples_are_spread_over_ranks_and_then_over_passes() -> None:
    """In turn, one rank would get all the long ones; one after the other, one pass would."""
    costs = [90, 10, 80, 10, 70, 10, 60, 10]
    assert by_position(costs, world=2, micro_batch=2) == [[[0, 5], [1, 6]], [[2, 7], [3, 4]]]


def test_the_plan_is_pinned() -> None:
    """Ranks of one run plan by themselves: the same numbers must give the same plan everywhere."""
    costs = [7 * n % 13 for n in range(12)]
    assert by_position(costs, world=3, micro_batch=2) == [
        [[0, 11], [1, 10]],
        [[2, 9], [3, 8]],
        [[4, 7], [5, 6]],
    ]
