"""Gradients that are not finite: left out and forgotten; in fp16 the scale of the loss follows them."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from harness.small_net import SmallNet, engine_of, numbers, state_of
from phitune_trainer.engine import Engine
from phitune_trainer.engine.world import World

ENGINES = ["data-parallel", "zero2", "zero2-offloaded"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def fp16_on_the_cpu(in_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DeepSpeed try what it allows only on CPUs with instructions for it; torch is slower without."""
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda accelerator: True)


def made(kind: str, world: World, precision: str) -> tuple[nn.Module, Engine]:
    """A net as its engine wants it: adapters are always trained in float32."""
    net = SmallNet()
    if kind != "data-parallel":
        net = net.to(DTYPES[precision])
    return net, engine_of(kind, net, world, precision)


def take_step(net: nn.Module, engine: Engine, world: World, step: int, *, overflows: bool) -> float:
    """One step; where it overflows, on the last rank only."""
    weight = net.get_parameter("deep.weight")
    if overflows and world.rank == world.size - 1:
        hook = weight.register_hook(lambda gradient: gradient * math.inf)
    else:
        hook = weight.register_hook(lambda gradient: gradient)
    x = numbers(step, world.rank).to(weight.dtype)
    share = net(x) / 1000
    engine.backward(share, is_last=True)
    hook.remove()
    return engine.step(1e-2, world.sum_(share.detach().float()))().grad_norm


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ENGINES)
def test_a_gradient_that_is_not_finite_is_left_out_and_in_fp16_forgotten(
    kind: str, precision: str, in_ranks: Any
) -> None:
    """Without a scale nothing would heal it: the run ends, and takes no third step."""
    overflow = [False, True, False] if precision == "fp16" else [False, True]

    def run(world: World) -> Any:
        net, engine = made(kind, world, precision)
        norms, moved = [], []
        for step, overflows in enumerate(overflow):
            before = [weight.detach().clone() for weight in net.parameters()]
            norms.append(take_step(net, engine, world, step, overflows=overflows))
            moved.append(any(not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)))
        return [math.isfinite(norm) for norm in norms], moved, engine.scalars()["adamStep"]

    is_good = [not overflows for overflows in overflow]
    assert in_ranks(2, run) == [(is_good, is_good, float(sum(is_good)))] * 2


@pytest.mark.parametrize("kind", ENGINES)
def test_in_fp16_a_restored_engine_takes_the_steps_that_the_first_would_have_taken(
    kind: str, in_ranks: Any
) -> None:
    """Another overflow after the restart: what it does to the scale depends on those before."""
    overflows = [True, False, True, False, True, False]

    def run(world: World) -> Any:
        net, engine = made(kind, world, "fp16")
        for step in range(3):
            take_step(net, engine, world, step, overflows=overflows[step])
        parts = {(part.kind, part.name, part.start): part.values.clone() for part in engine.fragments()}
        saved = {key: value for rank in world.gather(parts) for key, value in rank.items()}
        scalars = engine.scalars()

        def read(kind: str, name: str, start: int, end: int) -> torch.Tensor:
            parts = sorted(place for of, to, place in saved if (of, to) == (kind, name))
            return torch.cat([saved[kind, name, place] for place in parts])[start:end]

        other_net, other = made(kind, world, "fp16")
        other.restore(read, scalars)
        ends = []
        for one_net, one in ((net, engine), (other_net, other)):
            for step in range(3, 6):
                take_step(one_net, one, world, step, overflows=overflows[step])
            ends.append((state_of(one), one.scalars()))
        return scalars, ends[0] == ends[1], ends[0][1]

    for saved, is_equal, end in in_ranks(2, run):
        assert is_equal
        assert saved["adamStep"] == 1.0
        assert end["adamStep"] == 3.0
        assert end["lossScale"] < saved["lossScale"] < 65536
        assert end["goodSteps"] == 1.0
