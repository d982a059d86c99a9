"""What ranks tell each other."""

import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist

from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError

torch.set_num_threads(1)

LARGE = list(range(100_000))


def gathered(world: World) -> tuple[bool, int]:
    """Whether this rank knows what rank 0 found, and the bytes of the largest object that it gathered."""
    sizes = []
    gather = dist.all_gather_object

    def measured(objects: list[Any], value: object) -> None:
        sizes.append(len(pickle.dumps(value)))
        gather(objects, value)

    dist.all_gather_object = measured
    found = world.from_first(lambda: LARGE)
    return found == LARGE, max(sizes)


def test_what_rank_0_finds_is_sent_and_not_gathered_from_all(in_ranks: Any) -> None:
    """Gathered, every rank would hold it as often as there are ranks."""
    for is_known, size in in_ranks(3, gathered):
        assert is_known
        assert size < 1000


def refused(world: World) -> str:
    def refuse() -> None:
        raise UserError("not like this")

    with pytest.raises(UserError) as problem:
        world.from_first(refuse)
    return str(problem.value)


def test_what_rank_0_refuses_is_refused_on_all(in_ranks: Any) -> None:
    assert in_ranks(2, refused) == ["not like this"] * 2
