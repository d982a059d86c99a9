"""A step whose numbers are not finite never reaches the weights, and the layer where that begins is named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phitune_trainer.build import build_engine, load_datasets, load_method
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import collate
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Diverged
from phitune_trainer.methods import Method
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout, steps_in
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": False}}
METHODS = [pytest.param({}, id="zero2"), pytest.param(LORA, id="data-parallel")]
DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("method", METHODS)
def test_an_engine_leaves_the_weights_alone_when_the_gradient_is_not_finite(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**method)

    def run(world: World) -> tuple[bool, float]:
        samples, _ = load_datasets(config)
        loaded = load_method(config, world)
        engine = build_engine(config, loaded, world)
        before = {name: weight.detach().clone() for name, weight in engine.parameters.items()}
        share = loaded.model(collate([samples[0]]))
        loss = share.detach().clone()
        engine.backward(share * float("nan"), is_last=True)
        outcome = engine.step(1e-3, loss)()
        assert outcome.has_diverged
        return all(torch.equal(before[name], w) for name, w in engine.parameters.items()), outcome.grad_norm

    [(is_unchanged, norm)] = in_ranks(1, run)
    assert is_unchanged
    assert not torch.isfinite(torch.tensor(norm))


def poison_weights(workspace: Path, name: str, value: float) -> None:
    """Put a number that is not finite into one tensor of the base model."""
    model = workspace / "models" / "tiny"
    whole = model.resolve()
    model.unlink()
    shutil.copytree(whole, model)
    (file,) = (path for path in model.glob("*.safetensors") if name in load_file(path))
    tensors = load_file(file)
    tensors[name][0] = value
    save_file(tensors, file, metadata={"format": "pt"})


def whole_run(config: TrainConfig) -> Callable[[World], str]:
    def run(world: World) -> str:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        return run_rank(config, world, narrator, progress, StopRequest(), InProcess())

    return run


def divergence(config: TrainConfig) -> Callable[[World], str]:
    def run(world: World) -> str:
        with pytest.raises(Diverged) as ended:
            whole_run(config)(world)
        return str(ended.value)

    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_ends_every_rank_with_the_step_the_samples_and_the_layer(
    method: dict[str, Any], workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    poison_weights(workspace, f"{DOWN}.weight", torch.inf)
    config = make_config(**method, world={"processesPerNode": 2}, checkpoint={"everySteps": 1})
    messages = in_ranks(2, divergence(config))
    assert messages[0] == messages[1]
    assert messages[0].startswith("step 1: the loss is nan; look at the samples ")
    assert messages[0].count("train.jsonl:") == 8
    assert f"and 4 more; it begins in layer {DOWN}" in messages[0]
    assert "whose weights are not finite themselves" in messages[0]
    assert steps_in(RunLayout(config.run_dir).incarnation(1).checkpoints) == []


def spoil(monkeypatch: pytest.MonkeyPatch, spoil_layer: Callable[[Method], None]) -> None:
    """Do something to the model of every rank once it is loaded."""

    def load_and_spoil(config: TrainConfig, world: World) -> Method:
        method = load_method(config, world)
        spoil_layer(method)
        return method

    monkeypatch.setattr("phitune_trainer.train.load_method", load_and_spoil)


def layer_of(method: Method, name: str) -> torch.nn.Module:
    (found,) = (module for path, module in method.model.named_modules() if path == name)
    return found


class Spoilt(torch.autograd.Function):
    """Passes its input on; its gradient is not a number where the input is larger than `limit`."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, limit: float) -> torch.Tensor:
        context.is_bad = bool((x > limit).any())
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient * (torch.nan if context.is_bad else 1), None


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_is_found_too(
    method: dict[str, Any],
    checkpointing: bool,
    make_config: Any,
    in_ranks: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoil_mlp(loaded: Method) -> None:
        layer = layer_of(loaded, "model.layers.1.mlp")
        layer.register_forward_hook(lambda module, inputs, output: Spoilt.apply(output, -torch.inf))

    spoil(monkeypatch, spoil_mlp)
    config = make_config(**method, training={"maxSteps": 2, "gradientCheckpointing": checkpointing})
    [message] = in_ranks(1, divergence(config))
    assert message.startswith("step 1: the gradient is not finite, though the loss is, ")
    assert "it begins in layer model.layers.1.mlp; " in message


def test_a_picture_that_spoils_its_pass_is_named_with_the_layer(
    make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(_: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        (pictures,) = inputs
        is_ninth = any(picture[len(picture) // 2, picture.shape[1] // 2, 0] == 80 for picture in pictures)
        return output * torch.inf if is_ninth else output

    def spoil_vision(loaded: Method) -> None:
        layer_of(loaded, "model.vision_embed_tokens").register_forward_hook(overflow)

    spoil(monkeypatch, spoil_vision)
    [message] = in_ranks(1, divergence(make_config(training={"microBatchSize": 1})))
    assert re.match(r"step [12]: the loss is nan; look at the samples ", message)
    assert re.findall(r"train\.jsonl:\d+", message) == ["train.jsonl:9"]
    assert "it begins in layer model.vision_embed_tokens; " in message


def in_fp16(config: TrainConfig) -> TrainConfig:
    """As on a GPU: the config itself refuses it for the CPU, where it is slow."""
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": "fp16"})})


def overflow_in_the_first(count: int, counted: list[int]) -> Callable[[Method], None]:
    """Let the gradient of so many passes be not finite."""

    def overflow(_: torch.nn.Module, inputs: Any, output: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            return output
        counted.append(1)
        return Spoilt.apply(output, -torch.inf if len(counted) <= count else torch.inf)

    def register(loaded: Method) -> None:
        layer_of(loaded, DOWN).register_forward_hook(overflow)

    return register


def test_steps_that_overflow_in_fp16_are_left_out_and_counted(
    make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, overflow_in_the_first(2, []))
    config = in_fp16(make_config(**LORA, training={"microBatchSize": 12, "maxSteps": 4}))
    in_ranks(1, whole_run(config))
    rows = RunLayout(config.run_dir).incarnation(1).metrics.read_text().splitlines()
    assert [json.loads(row)["skippedSteps"] for row in rows] == [1, 2, 2, 2]
    assert [json.loads(row)["gradNorm"] is None for row in rows] == [True, True, False, False]


def test_a_run_in_fp16_of_which_every_step_overflows_ends(
    make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, overflow_in_the_first(1000, []))
    config = in_fp16(
        make_config(**LORA, training={"globalBatchSize": 1, "microBatchSize": 1, "maxSteps": 1000})
    )
    [message] = in_ranks(1, divergence(config))
    assert message.startswith("step 17: the gradient is not finite, though the loss is, ")
    assert f"it begins in layer {DOWN}; " in message
