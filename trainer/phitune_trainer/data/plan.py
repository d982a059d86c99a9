"""Which rank takes which samples of a step, and in which pass, so that no rank waits long for another.

Plain functions of numbers, the same on every rank. The samples of the step are given: who computes them
changes nothing about their sum.
"""

import heapq
from collections.abc import Callable, Sequence

from phitune_trainer.data.sampler import split

Cost = Callable[[int], int]
"""What a sample costs to train, by its index, in any unit; not below 0."""


def equal_cost(_: int) -> int:
    """For samples that nobody has measured: ranks and passes then get the same numbers of them, in turn."""
    return 1


def share_out(indices: Sequence[int], cost: Cost, *, world: int, micro_batch: int) -> list[list[list[int]]]:
    """The indices of a step as [rank][pass][sample].

    Every rank gets the same number of passes, as few as will do with at most `micro_batch` samples in each;
    some may be empty. What the ranks have to do in all is balanced first, then the passes of each rank. Where
    ranks meet in every pass, they meet in equal ones: each rank's costliest pass comes first.
    """
    costs = [cost(index) for index in indices]
    in_turn = [
        split(range(len(indices)), rank=rank, world=world, micro_batch=micro_batch) for rank in range(world)
    ]
    num_passes = len(in_turn[0])
    shares = _balance(range(len(indices)), costs, bins=world, room=num_passes * micro_batch)
    by_cost = [_balance(share, costs, bins=num_passes, room=micro_batch) for share in shares]
    # The costliest first to whoever has least is good, but now and then taking turns happens to be better.
    best = min(in_turn, by_cost, key=lambda plan: _heaviest(plan, costs))
    return [
        [[indices[place] for place in piece] for piece in sorted(passes, key=lambda one: -_sum(one, costs))]
        for passes in best
    ]


def _balance(places: Sequence[int], costs: Sequence[int], *, bins: int, room: int) -> list[list[int]]:
    """The costliest first, each into the bin with the least in it that has room, or the first of those.

    Each bin's places are in the order of the step.
    """
    filled: list[list[int]] = [[] for _ in range(bins)]
    open_bins = [(0, number) for number in range(bins)]
    for place in sorted(places, key=lambda place: (-costs[place], place)):
        load, number = heapq.heappop(open_bins)
        filled[number].append(place)
        if len(filled[number]) < room:
            heapq.heappush(open_bins, (load + costs[place], number))
    return [sorted(content) for content in filled]


def _heaviest(plan: list[list[list[int]]], costs: Sequence[int]) -> tuple[int, int]:
    """What the rank costs that has most to do, and the costliest pass of all."""
    passes = [[_sum(piece, costs) for piece in rank] for rank in plan]
    return max(map(sum, passes)), max((one for rank in passes for one in rank), default=0)


def _sum(places: Sequence[int], costs: Sequence[int]) -> int:
    return sum(costs[place] for place in places)
