"""Every method with every precision, device and option trains what it says, or is refused with what would."""

import math
from itertools import product
from typing import Any

import pytest
import torch

from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.config import ConfigError, TrainConfig
from phitune_trainer.data import collate
from phitune_trainer.engine.world import World

PRECISIONS = ("bf16", "fp32", "fp16")


def changes(
    method: str, precision: str, device: str, freeze_vision: bool, vision: bool, offload: bool
) -> dict[str, Any]:
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": vision}
    return {
        "method": method,
        "freezeVision": freeze_vision,
        **({} if method == "full" else {"lora": lora}),
        "training": {"precision": precision, "offloadOptimizer": offload, "globalBatchSize": 8},
        "world": {"device": device, "processesPerNode": 2},
    }


def refusals(
    method: str, precision: str, device: str, freeze_vision: bool, vision: bool, offload: bool
) -> set[str]:
    """What cannot work, each with what would."""
    found = set()
    if method != "full" and freeze_vision and vision:
        found.add(
            "lora.vision: not with freezeVision, which leaves the vision part as it is; "
            "set one of them to false"
        )
    if precision == "fp16" and device == "cpu":
        found.add("training.precision: fp16 needs a GPU; use fp32 or bf16")
    if offload and method != "full":
        found.add(
            f"training.offloadOptimizer: not with method {method}, whose optimizer state is small; remove it"
        )
    if offload and device == "cpu":
        found.add("training.offloadOptimizer: needs a GPU, or there is nothing to take off it; remove it")
    return found


COMBINATIONS = [
    (method, *rest)
    for method in ("full", "lora", "qlora")
    for rest in product(
        PRECISIONS,
        ("cpu", "cuda"),
        (False, True),
        (False,) if method == "full" else (False, True),
        (False, True),
    )
]


def test_every_combination_is_taken_or_refused_with_what_would_work(make_config: Any) -> None:
    taken = 0
    for combination in COMBINATIONS:
        expected = refusals(*combination)
        try:
            make_config(**changes(*combination))
            found = set()
            taken += 1
        except ConfigError as refused:
            found = set(refused.problems)
        assert found == expected, combination
    assert (len(COMBINATIONS), taken) == (120, 46)


def two_steps(config: TrainConfig, world: World) -> tuple[dict[str, bool], set[str]]:
    """Two optimizer steps: each trained parameter, whether it had a gradient; all others that have moved.

    One rank has two samples with a picture and then one without, the other only text.
    """
    samples, _ = load_datasets(config)
    method = load_method(config, world)
    engine = build_engine(config, method, world)
    trained = {id(parameter) for parameter in engine.parameters.values()}
    others = {n: p for n, p in method.model.named_parameters() if id(p) not in trained}
    before = {name: parameter.detach().clone() for name, parameter in others.items()}
    passes = [[0, 1], [3]] if world.is_first else [[7], [11]]
    for _ in range(2):
        for number, indices in enumerate(passes):
            loss = method.model(collate([samples[index] for index in indices]).to(world.device))
            engine.backward(loss / 8, is_last=number == 1)
        assert math.isfinite(engine.step(1e-3, loss.detach().float())().grad_norm)
    own = {part.name for part in engine.fragments() if part.kind == "exp_avg" and part.values.any()}
    had_gradient = set().union(*world.gather(own))
    moved = {name for name, parameter in others.items() if not torch.equal(parameter, before[name])}
    return {name: name in had_gradient for name in engine.parameters}, moved


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("method", "freeze_vision", "vision", "parts"),
    [
        pytest.param("full", False, False, {"text embedding", "language", "vision"}, id="full"),
        pytest.param("full", True, False, {"text embedding", "language"}, id="full-with-vision-frozen"),
        pytest.param("lora", False, False, {"language"}, id="lora"),
        pytest.param("lora", False, True, {"language", "vision"}, id="lora-with-vision"),
        pytest.param("lora", True, False, {"language"}, id="lora-with-vision-frozen"),
        pytest.param("qlora", False, False, {"language"}, id="qlora"),
        pytest.param("qlora", False, True, {"language", "vision"}, id="qlora-with-vision"),
        pytest.param("qlora", True, False, {"language"}, id="qlora-with-vision-frozen"),
    ],
)
def test_all_of_what_is_to_be_trained_is_and_nothing_else(
    method: str,
    freeze_vision: bool,
    vision: bool,
    parts: set[str],
    precision: str,
    make_config: Any,
    in_ranks: Any,
) -> None:
    config = make_config(**changes(method, precision, "cpu", freeze_vision, vision, False))
    for trained, moved in in_ranks(2, lambda world: two_steps(config, world)):
        assert {part_of(name) for name in trained} == parts
        assert [name for name, had_gradient in trained.items() if not had_gradient] == []
        assert moved == set()


def part_of(name: str) -> str:
    if "vision_embed_tokens" in name:
        return "vision"
    return "text embedding" if "embed_tokens" in name else "language"
