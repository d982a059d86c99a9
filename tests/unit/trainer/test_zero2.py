"""ZeRO-2: what it sends, where the optimizer may lie, and the order of gradients that it depends on."""

import time
from typing import Any

import pytest
import torch

from harness.small_net import SmallNet, engine_of, numbers, state_of
from phitune_trainer.engine.world import World
from trainerbench.sent_bytes import sent_bytes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_optimizer_on_the_host_gives_the_same_numbers(precision: str, in_ranks: Any) -> None:
    def three_steps(kind: str) -> Any:
        def run(world: World) -> Any:
            dtype = DTYPES[precision]
            net = SmallNet().to(dtype)
            engine = engine_of(kind, net, world, precision)
            for step in range(3):
                for number in range(2):
                    x = numbers(2 * step + number, world.rank).to(dtype)
                    engine.backward(net(x), is_last=number == 1)
                engine.step(1e-2, torch.zeros(()))
            return state_of(engine), engine.scalars()

        return run

    on_host, on_device = in_ranks(2, three_steps("zero2-offloaded")), in_ranks(2, three_steps("zero2"))
    for (found, scalars), (expected, _) in zip(on_host, on_device, strict=True):
        assert scalars == {"adamStep": 3.0}
        assert found.keys() == expected.keys()
        for key, values in found.items():  # the norm that all are clipped by is added up in another order
            assert values == pytest.approx(expected[key], rel=1e-6, abs=1e-8), key


def test_a_gradient_is_sent_once_to_the_rank_that_keeps_it_and_a_weight_once_to_the_others(
    in_ranks: Any,
) -> None:
    def run(world: World) -> tuple[int, int]:
        net = SmallNet(width=256)
        engine = engine_of("zero2", net, world)
        sent = 0
        for step in range(2):
            world.sum([0])
            before = sent_bytes()
            engine.backward(net(numbers(step, world.rank)), is_last=True)
            engine.step(1e-2, torch.zeros(()))
            world.sum([0])
            time.sleep(0.1)
            sent = sent_bytes() - before
        return sent, sum(weight.nbytes for weight in net.parameters())

    for sent, weights in in_ranks(3, run):
        assert sent == pytest.approx(2 * weights * 2 / 3, rel=0.05)


def test_gradients_in_another_order_than_on_the_other_ranks_are_refused_by_name(in_ranks: Any) -> None:
    """`words` and `pictures` are of one shape: DeepSpeed would add the gradients of one to the other's."""

    def run(world: World) -> tuple[str, bool]:
        net = SmallNet()
        before = [weight.detach().clone() for weight in net.parameters()]
        engine = engine_of("zero2", net, world)
        engine.backward(net(numbers(0, world.rank)), is_last=False)
        engine.backward(net(numbers(1, world.rank), pictures_first=world.rank == 1), is_last=True)
        with pytest.raises(RuntimeError) as refused:
            engine.step(1e-2, torch.zeros(()))
        is_as_before = all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
        return str(refused.value), is_as_before

    for message, is_as_before in in_ranks(2, run):
        assert "in another order on some ranks than on others, first pictures." in message
        assert ", words." in message
        assert is_as_before


def test_another_order_on_all_ranks_at_once_is_taken(in_ranks: Any) -> None:
    def run(world: World) -> list[float]:
        net = SmallNet()
        engine = engine_of("zero2", net, world)
        norms = []
        for step in range(2):
            engine.backward(net(numbers(0, world.rank), pictures_first=step == 1), is_last=True)
            norms.append(engine.step(0.0, torch.zeros(()))().grad_norm)
        return norms

    for first, second in in_ranks(2, run):
        assert second == pytest.approx(first, rel=1e-6)
