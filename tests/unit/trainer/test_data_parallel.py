"""Adapters on several ranks: what took part in a pass may differ, and gradients are sent early."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from harness.small_net import WEIGHT_DECAY, SmallNet, engine_of, numbers
from phitune_trainer.engine import ADAM_BETAS, ADAM_EPS
from phitune_trainer.engine.world import World
from trainerbench.sent_bytes import sent_bytes

WITH_PICTURE = [[True, False, False], [False, True, False]]
"""Of the two passes of a step on three ranks: a pass with pictures on one rank only, another on the next."""


def two_steps(world: World) -> tuple[list[float], dict[str, Any]]:
    """Losses of two steps, and the weights after them; as in the loop, a loss is summed before its step."""
    net = SmallNet()
    engine = engine_of("data-parallel", net, world)
    losses = []
    for step in range(2):
        shares = []
        for number, with_picture in enumerate(WITH_PICTURE, start=1):
            share = net(numbers(2 * step + number, world.rank), with_picture=with_picture[world.rank])
            engine.backward(share, is_last=number == 2)
            shares.append(share.detach())
        loss = world.sum_(torch.stack(shares).sum())
        engine.step(1e-2, loss)
        losses.append(float(loss))
    return losses, {name: weight.detach().numpy() for name, weight in net.named_parameters()}


def two_plain_steps() -> tuple[list[float], dict[str, Any]]:
    """The same in one process with plain torch."""
    net = SmallNet()
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=ADAM_BETAS, eps=ADAM_EPS)
    losses = []
    for step in range(2):
        loss = torch.zeros(())
        for number, with_picture in enumerate(WITH_PICTURE, start=1):
            for rank in range(3):
                loss = loss + net(numbers(2 * step + number, rank), with_picture=with_picture[rank])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: weight.detach().numpy() for name, weight in net.named_parameters()}


def test_ranks_may_differ_in_what_took_part_in_a_pass(in_ranks: Any) -> None:
    expected_losses, expected_weights = two_plain_steps()
    for losses, weights in in_ranks(3, two_steps):
        assert losses == pytest.approx(expected_losses, rel=1e-6)
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, expected_weights[name], rtol=0, atol=1e-6, err_msg=name)


def test_all_ranks_have_the_same_bits(in_ranks: Any) -> None:
    first, *others = in_ranks(3, two_steps)
    for _, weights in others:
        assert all(np.array_equal(weight, first[1][name]) for name, weight in weights.items())


def test_gradients_are_sent_while_the_backward_pass_goes_on(in_ranks: Any) -> None:
    """The first layer's gradient, the last to come, waits until a later layer's has left this process."""

    def run(world: World) -> bool:
        net = SmallNet(width=256)
        engine = engine_of("data-parallel", net, world)
        before = sent_bytes()
        seen = []

        def wait(gradient: torch.Tensor) -> None:
            deadline = time.monotonic() + 20
            while sent_bytes() - before < net.deep.weight.nbytes and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append(sent_bytes() - before >= net.deep.weight.nbytes)

        net.words.weight.register_hook(wait)
        engine.backward(net(numbers(0, world.rank)), is_last=True)
        engine.step(1e-2, torch.zeros(()))
        return seen == [True]

    assert in_ranks(2, run) == [True, True]


def test_no_gradient_is_sent_before_the_last_pass(in_ranks: Any) -> None:
    def run(world: World) -> bool:
        net = SmallNet(width=256)
        engine = engine_of("data-parallel", net, world)
        before = sent_bytes()
        engine.backward(net(numbers(0, world.rank)), is_last=False)
        world.sum([0])
        return sent_bytes() - before < net.head.weight.nbytes

    assert in_ranks(2, run) == [True, True]
