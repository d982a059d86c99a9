"""Both engines give the same numbers, however a step is split over ranks and forward passes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import collate
from phitune_trainer.data.sampler import split, step_indices
from phitune_trainer.engine.world import World

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}
LORA_WITH_VISION = {"method": "lora", "lora": {**LORA["lora"], "vision": True}}  # type: ignore[dict-item]


def two_steps(config: TrainConfig) -> Callable[[World], tuple[list[float], list[float], dict[str, Any]]]:
    """Two optimizer steps by hand: losses, gradient norms and trained weights."""

    def run(world: World) -> tuple[list[float], list[float], dict[str, Any]]:
        samples, _ = load_datasets(config)
        method = load_method(config, world)
        engine = build_engine(config, method, world)
        losses, norms = [], []
        for step in range(2):
            training = config.training
            indices = step_indices(
                seed=0, step=step, num_samples=len(samples), global_batch=training.global_batch_size
            )
            pieces = split(indices, rank=world.rank, world=world.size, micro_batch=training.micro_batch_size)
            batches = [collate([samples[index] for index in piece]) for piece in pieces]
            num_tokens = world.sum([sum(batch.num_label_tokens for batch in batches)])[0]
            loss = torch.zeros(())
            for batch in batches:
                share = method.model(batch) / num_tokens
                engine.backward(share, is_last=batch is batches[-1])
                loss += share.detach()
            norms.append(float(engine.step(1e-3)))
            losses.append(float(world.sum_(loss)))
        weights = {name: weight.detach().numpy() for name, weight in engine.parameters.items()}
        return losses, norms, weights

    return run


def reference(config: TrainConfig, in_ranks: Any) -> tuple[list[float], list[float], dict[str, Any]]:
    """The same with plain torch: one process, one forward pass a step, AdamW on everything."""

    def run(world: World) -> tuple[list[float], list[float], dict[str, Any]]:
        samples, _ = load_datasets(config)
        model = load_method(config, world).model
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = [
            {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in trained.values() if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=1e-3, betas=(0.9, 0.95), eps=1e-7
        )
        losses, norms = [], []
        for step in range(2):
            indices = step_indices(seed=0, step=step, num_samples=len(samples), global_batch=12)
            batch = collate([samples[index] for index in indices])
            loss = model(batch) / batch.num_label_tokens
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses, norms, {name: p.detach().numpy() for name, p in trained.items()}

    result: tuple[list[float], list[float], dict[str, Any]] = in_ranks(1, run)[0]
    return result


@pytest.mark.parametrize(
    "method",
    [
        pytest.param({}, id="zero2"),
        pytest.param(LORA, id="adapters"),
        pytest.param(LORA_WITH_VISION, id="adapters-on-vision-too"),
    ],
)
def test_any_split_over_ranks_and_passes_equals_one_plain_process(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    expected = reference(make_config(**method), in_ranks)
    for ranks, micro_batch in [(1, 12), (1, 3), (2, 3), (3, 1)]:
        config = make_config(
            **method, world={"processesPerNode": ranks}, training={"microBatchSize": micro_batch}
        )
        for losses, norms, weights in in_ranks(ranks, two_steps(config)):
            assert losses == pytest.approx(expected[0], rel=1e-5), (ranks, micro_batch)
            assert norms == pytest.approx(expected[1], rel=1e-4), (ranks, micro_batch)
            assert weights.keys() == expected[2].keys()
            for name, weight in weights.items():
                np.testing.assert_allclose(weight, expected[2][name], rtol=0, atol=1e-5, err_msg=name)
