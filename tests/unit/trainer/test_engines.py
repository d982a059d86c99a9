"""Both engines give the same numbers, however a step is split over ranks and forward passes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.parquet_data import CAULDRON, cauldron_row, encoded, write_parquet
from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import collate
from phitune_trainer.data.sampler import split, step_indices
from phitune_trainer.engine import ADAM_BETAS, Engine
from phitune_trainer.engine.world import World
from phitune_trainer.model import Sample

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}
LORA_WITH_VISION = {"method": "lora", "lora": {**LORA["lora"], "vision": True}}  # type: ignore[dict-item]

Plan = Callable[[int], list[int]]
"""The samples of a step, by its number."""
Steps = tuple[list[float], list[float], dict[str, Any], dict[str, Any]]
"""Losses, gradient norms, the first step's gradients (clipped) and the weights at the end, by parameter."""


def shuffled(step: int) -> list[int]:
    """Twelve of 24 samples, in the order of a run."""
    return step_indices(seed=0, step=step, num_samples=24, global_batch=12)


def two_steps(config: TrainConfig, plan: Plan = shuffled) -> Callable[[World], Steps]:
    """Two optimizer steps by hand, this rank's part of them."""

    def run(world: World) -> Steps:
        samples, _ = load_datasets(config)
        method = load_method(config, world)
        engine = build_engine(config, method, world)
        border = method.model.model_config.original_max_positions
        lay_out = partial(collate, original_max_positions=border)
        losses, norms, gradients = [], [], {}
        for step in range(2):
            micro_batch = config.training.micro_batch_size
            pieces = split(plan(step), rank=world.rank, world=world.size, micro_batch=micro_batch)
            batches = [lay_out([samples[index] for index in piece]) for piece in pieces]
            num_tokens = world.sum([sum(batch.num_label_tokens for batch in batches)])[0]
            loss = torch.zeros(())
            for batch in batches:
                share = method.model(batch) / num_tokens
                engine.backward(share, is_last=batch is batches[-1])
                loss += share.detach()
            outcome = engine.step(1e-3, world.sum_(loss))()
            norms.append(outcome.grad_norm)
            losses.append(outcome.loss)
            if step == 0:
                gradients = gradients_of(engine, world)
        weights = {name: weight.detach().numpy() for name, weight in engine.parameters.items()}
        return losses, norms, gradients, weights

    return run


def gradients_of(engine: Engine, world: World) -> dict[str, Any]:
    """What the first step was taken with: AdamW's average is then a tenth of it, spread over the ranks."""
    gradients = {name: np.full(one.shape, np.nan) for name, one in engine.parameters.items()}
    own = [
        (part.name, part.start, part.values.numpy()) for part in engine.fragments() if part.kind == "exp_avg"
    ]
    for name, start, values in (part for rank in world.gather(own) for part in rank):
        gradients[name].reshape(-1)[start : start + len(values)] = values / (1 - ADAM_BETAS[0])
    return gradients


def sequences(sample: Sample) -> list[Sample]:
    """What a sample stands for, each question as a sample of its own."""
    return [
        replace(
            sample,
            input_ids=torch.cat([sample.input_ids, branch.input_ids]),
            labels=torch.cat([sample.labels, branch.labels]),
            branches=(),
        )
        for branch in sample.branches
    ] or [sample]


def reference(config: TrainConfig, in_ranks: Any, plan: Plan = shuffled) -> Steps:
    """The same with plain torch: one process, one forward pass a step, AdamW on everything."""

    def run(world: World) -> Steps:
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
        losses, norms, gradients = [], [], {}
        for step in range(2):
            batch = collate([sequence for index in plan(step) for sequence in sequences(samples[index])])
            loss = model(batch) / batch.num_label_tokens
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
            gradients = gradients or {name: p.grad.numpy().copy() for name, p in trained.items()}
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses, norms, gradients, {name: p.detach().numpy() for name, p in trained.items()}

    result: Steps = in_ranks(1, run)[0]
    return result


def assert_equal(found: list[Steps], expected: Steps) -> None:
    """Every rank has the losses, norms, gradients and weights of the reference."""
    for losses, norms, gradients, weights in found:
        assert losses == pytest.approx(expected[0], rel=1e-5)
        assert norms == pytest.approx(expected[1], rel=1e-5)
        assert gradients.keys() == expected[2].keys()
        for name, gradient in gradients.items():
            # A bias before a softmax has no gradient but rounding: 1e-11 of a whole that is clipped to 1.
            atol = 1e-5 * np.abs(expected[2][name]).max() + 1e-9
            np.testing.assert_allclose(gradient, expected[2][name], rtol=0, atol=atol, err_msg=name)
        assert weights.keys() == expected[3].keys()
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, expected[3][name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param({}, id="zero2"),
        pytest.param({"freezeVision": True}, id="zero2-with-vision-frozen"),
        pytest.param(LORA, id="adapters"),
        pytest.param(LORA_WITH_VISION, id="adapters-on-vision-too"),
    ],
)
def test_any_split_over_ranks_and_passes_equals_one_plain_process(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    expected = reference(make_config(**method), in_ranks)
    for ranks, micro_batch, recomputed in [
        (1, 3, True),
        (2, 3, False),
        (3, 2, False),
        (4, 1, True),
    ]:
        config = make_config(
            **method,
            world={"processesPerNode": ranks},
            training={"microBatchSize": micro_batch, "gradientCheckpointing": recomputed},
        )
        assert_equal(in_ranks(ranks, two_steps(config)), expected)


def test_adapters_beside_frozen_vision_train_though_a_rank_has_only_text(
    make_config: Any, in_ranks: Any
) -> None:
    """Every fourth sample has no picture; `split` deals a step out to the ranks in turn."""
    method = {**LORA, "freezeVision": True}
    plan = [[0, 3, 1, 7, 2, 11], [12, 15, 13, 19, 14, 23]].__getitem__
    config = make_config(
        **method, world={"processesPerNode": 2}, training={"globalBatchSize": 6, "microBatchSize": 3}
    )
    ranks = [split(plan(0), rank=rank, world=2, micro_batch=3) for rank in (0, 1)]
    assert ranks == [[[0, 1, 2]], [[3, 7, 11]]]
    assert_equal(in_ranks(2, two_steps(config, plan)), reference(config, in_ranks, plan))


@pytest.mark.slow
def test_questions_that_share_a_page_weigh_the_same_however_pages_are_split(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    """Pages of one, two and three questions, against every question as a sequence of its own in one pass."""
    answers = ["one", "two words", "three words more"]
    pages = [
        cauldron_row(
            *((f"What is {number} of {page}?", answers[number]) for number in range(1 + page % 3)),
            images=[encoded(60, 80, grey=40 * page)],
        )
        for page in range(6)
    ]
    write_parquet(workspace / "data/docvqa/docvqa/train-0.parquet", CAULDRON, pages)
    plan = [[0, 1, 2, 3, 4, 5], [5, 2, 1, 0, 3, 4]].__getitem__

    def pages_config(ranks: int, micro_batch: int) -> TrainConfig:
        config: TrainConfig = make_config(
            task="docvqa",
            data={"path": "data/docvqa"},
            world={"processesPerNode": ranks},
            training={"globalBatchSize": 6, "microBatchSize": micro_batch},
        )
        return config

    expected = reference(pages_config(1, 6), in_ranks, plan)
    for ranks, micro_batch in [(1, 2), (2, 3), (3, 1)]:
        assert_equal(in_ranks(ranks, two_steps(pages_config(ranks, micro_batch), plan)), expected)
