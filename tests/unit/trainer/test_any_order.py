"""A run continues at 1, 2, 3 and 4 ranks in whatever order: all 24 of them, sharing their beginnings.

With ZeRO-2, where every rank saves a part. Adapters are saved by one, and read whole by each: test_resume.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.checkpoint.files import StateReader, check, read_trainer, seal, write_state
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import collate
from phitune_trainer.data.sampler import split, step_indices
from phitune_trainer.engine.world import World

WORLDS = (1, 2, 3, 4)

Order = tuple[int, ...]
"""How many ranks took the first step, the second, and so on."""


def folder_of(config: TrainConfig, order: Order) -> Path:
    """The checkpoint after the last step of an order."""
    return Path(config.run.workspace, "orders", "-".join(map(str, order)))


def carry_out(config: TrainConfig, orders: Sequence[Order]) -> Callable[[World], list[float]]:
    """Take the last step of each order, from the checkpoint of those before it, and save; the losses."""

    def run(world: World) -> list[float]:
        samples, _ = load_datasets(config)
        method = load_method(config, world)
        engine = build_engine(config, method, world)
        lay_out = partial(collate, original_max_positions=method.model.model_config.original_max_positions)
        losses, last = [], ()
        for order in orders:
            before, is_next = order[:-1], last == order[:-1]
            last = order
            if not is_next:
                folder = folder_of(config, before)
                check(folder)
                engine.restore(StateReader(folder), read_trainer(folder)["engine"])
            indices = step_indices(seed=0, step=len(before), num_samples=24, global_batch=12)
            pieces = split(indices, rank=world.rank, world=world.size, micro_batch=1)
            batches = [lay_out([samples[index] for index in piece]) for piece in pieces]
            [num_labels] = world.sum([sum(batch.num_label_tokens for batch in batches)])
            shares = []
            for batch in batches:
                share = method.model(batch) / num_labels
                engine.backward(share, is_last=batch is batches[-1])
                shares.append(share.detach())
            losses.append(engine.step(1e-3, world.sum_(torch.stack(shares).sum()))().loss)
            folder = folder_of(config, order)
            world.from_first(partial(folder.mkdir, parents=True))
            states = world.gather(
                write_state(folder, world.rank, list(engine.fragments()), lambda num_bytes: None)
            )
            world.from_first(partial(seal, folder, {"engine": engine.scalars()}, states))
        return losses

    return run


@pytest.mark.slow
def test_every_order_of_one_two_three_and_four_ranks_is_the_run_at_one(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(training={"microBatchSize": 1})
    alone = [(1,) * steps for steps in range(1, 5)]
    expected = in_ranks(1, carry_out(config, alone))[0]
    weights = StateReader(folder_of(config, alone[-1]))
    first = folder_of(config, alone[0])
    first.rename(first.with_name("alone"))
    ends = []
    for depth in range(1, 5):
        for ranks in WORLDS:
            orders = [order for order in permutations(WORLDS, depth) if order[-1] == ranks]
            of_ranks = make_config(world={"processesPerNode": ranks}, training={"microBatchSize": 1})
            for losses in in_ranks(ranks, carry_out(of_ranks, orders)):
                assert losses == pytest.approx([expected[depth - 1]] * len(orders), rel=1e-5)
            ends += orders if depth == 4 else []
    assert sorted(ends) == sorted(permutations(WORLDS))
    assert len(weights.parameters()) > 10
    for order in ends:
        read = StateReader(folder_of(config, order))
        assert read.parameters() == weights.parameters()
        for name in weights.parameters():
            size = weights.num_elements(name)
            found, wanted = (one("weight", name, 0, size) for one in (read, weights))
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=f"{name} after {order}")
