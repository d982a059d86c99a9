"""Host and device work side by side: in a step the host asks for nothing, and looks at it a step later."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.tiny_models import sample, small_model
from phitune_trainer import loop
from phitune_trainer.build import build_engine, load_method
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine import Engine
from phitune_trainer.engine.guard import STEPS_TO_DOUBLE, Guard
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Diverged
from phitune_trainer.finish import parameters_hash
from phitune_trainer.methods import Method
from phitune_trainer.model import collate
from phitune_trainer.model.inputs import Branch
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": True}}
ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}
"""Operations whose result's size or value the host has to know: on a GPU it waits for them."""
CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")


class Watch(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        name = func.name().removeprefix("aten::").partition(".")[0]
        self.num_operations += 1
        is_mask = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in ASKS or is_mask:
            self.waits[name] += 1
        if name == "_to_copy" and not options.get("non_blocking") and _other_device(args[0], options):
            self.waits["copy"] += 1
        return func(*args, **options)


def branch(length: int) -> Branch:
    tokens = torch.arange(length)
    return Branch(input_ids=tokens, labels=tokens)


def _other_device(tensor: torch.Tensor, options: Any) -> bool:
    return options.get("device", tensor.device).type != tensor.device.type


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_pass_on_a_gpu_makes_the_host_wait_for_nothing(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without data: the forward pass, whose kernels no GPU is needed for."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    model = small_model(attention=attention)
    border = model.model_config.original_max_positions
    page = replace(sample(20, grids=[(2, 1)], labels=0), branches=(branch(5), branch(60)))
    samples = [sample(12, grids=[(1, 2)]), sample(9), page]
    batch = collate(samples, original_max_positions=border)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                on_gpu = torch.empty(weight.shape, dtype=weight.dtype, device=CUDA)
                module.register_parameter(name, torch.nn.Parameter(on_gpu))
        on_host = batch._with_tensors(mode.from_tensor)
        model(on_host.to(CUDA))  # the first one also puts the rotary frequencies there
        with Watch() as watch:
            loss = model(on_host.to(CUDA))
    assert loss.device == CUDA
    assert watch.num_operations > 100
    assert watch.waits == {}


class Taken:
    """A run whose steps are looked at so many steps late, as on a GPU."""

    def __init__(self, config: TrainConfig, world: World, ahead: int) -> None:
        self.config, self.world = config, world
        self.watch = Watch()
        self.order: list[str] = []
        self.engines: list[Engine] = []
        self._ahead = ahead

    def run(self) -> str:
        reports = Path(self.config.run.workspace, "reports")
        reports.mkdir(exist_ok=True)
        take, conclude = loop.train_step, loop.conclude

        def train_step(run: Any, *rest: Any) -> Any:
            with self.watch:
                begun = take(run, *rest)
            self.order.append(f"begin {begun.number}")
            return begun

        def noted(run: Any, begun: Any) -> None:
            conclude(run, begun)
            self.order.append(f"look {begun.number}")

        def build(config: TrainConfig, method: Method, world: World) -> Engine:
            self.engines.append(build_engine(config, method, world))
            return self.engines[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train_step", train_step)
            patch.setattr(loop, "conclude", noted)
            patch.setattr("phitune_trainer.train.build_engine", build)
            patch.setattr("phitune_trainer.build.choose_steps_ahead", lambda engine, world: self._ahead)
            progress = Progress(attempt=1)
            narrator = Narrator(self.world.rank, reports, progress)
            return run_rank(self.config, self.world, narrator, progress, StopRequest(), InProcess())


def test_a_step_of_adapters_asks_the_device_for_nothing_and_is_looked_at_when_the_next_is_begun(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**LORA, training={"maxSteps": 5}, checkpoint={"everySteps": 3, "keep": 9})

    def run(world: World) -> Any:
        taken = Taken(config, world, ahead=1)
        taken.run()
        return taken.watch.waits, taken.watch.num_operations, taken.order

    [(waits, num_operations, order)] = in_ranks(1, run)
    assert num_operations > 1000
    assert waits == {}
    assert order == [
        "begin 1",
        "begin 2",
        "look 1",
        "begin 3",
        "look 2",
        "look 3",  # it is saved
        "begin 4",
        "begin 5",
        "look 4",
        "look 5",
    ]


def test_steps_that_are_looked_at_late_are_the_same_to_the_bit(make_config: Any, in_ranks: Any) -> None:
    found = []
    for ahead in (0, 2):
        config = make_config(
            **LORA, run={"uid": f"0000000{ahead}"}, world={"processesPerNode": 2}, training={"maxSteps": 4}
        )

        def run(world: World, config: TrainConfig = config, ahead: int = ahead) -> str:
            taken = Taken(config, world, ahead)
            taken.run()
            return parameters_hash(taken.engines[0].parameters)

        hashes = in_ranks(2, run)
        rows = RunLayout(config.run_dir).incarnation(1).metrics.read_text().splitlines()
        found.append((hashes, [row.partition('"loss"')[2].partition(",")[0] for row in rows]))
    assert found[0] == found[1]
    assert len(found[0][1]) == 4


def test_a_step_that_is_found_not_finite_late_has_moved_no_weight_nor_have_those_after_it(
    make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ninth sample spoils its step: the same words, and the same weights, however late that is seen."""

    def overflow(_: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        is_ninth = any(picture[len(picture) // 2, picture.shape[1] // 2, 0] == 80 for picture in inputs[0])
        return output * torch.inf if is_ninth else output

    def load_and_spoil(config: TrainConfig, world: World) -> Method:
        method = load_method(config, world)
        method.model.model.vision_embed_tokens.register_forward_hook(overflow)
        return method

    monkeypatch.setattr("phitune_trainer.train.load_method", load_and_spoil)
    ends = []
    for ahead in (0, 1, 3):
        config = make_config(
            **LORA,
            run={"uid": f"0000000{ahead}"},
            training={"maxSteps": 8, "globalBatchSize": 2, "microBatchSize": 1, "seed": 2},
        )

        def run(world: World, config: TrainConfig = config, ahead: int = ahead) -> Any:
            taken = Taken(config, world, ahead)
            with pytest.raises(Diverged) as ended:
                taken.run()
            begun = sum(line.startswith("begin") for line in taken.order)
            return str(ended.value), parameters_hash(taken.engines[0].parameters), begun

        ends.append(in_ranks(1, run)[0])
    (message, weights, begun), *late = ends
    assert begun > 1
    assert message.startswith(f"step {begun}: the loss is nan; look at the samples ")
    assert "train.jsonl:9" in message
    assert [end[:2] for end in late] == [(message, weights)] * 2
    assert [end[2] for end in late] == [begun + 1, begun + 3]


def follow(guard: Guard, norms: list[float]) -> list[float]:
    """Judge gradients of these norms one after the other; where the weights stayed."""
    loss = torch.tensor(1.0)
    return [float(guard.judge(loss, torch.tensor(norm))) for norm in norms]


@given(st.lists(st.booleans(), max_size=14))
@settings(max_examples=40, deadline=None)
def test_the_scale_of_the_loss_follows_overflows_as_torchs_own_does(overflows: list[bool]) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.0, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    guard = Guard(CPU, scales=True)
    for overflow in overflows:
        scaler.scale(weight.sum()).backward()
        if overflow:
            assert weight.grad is not None
            weight.grad.mul_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert follow(guard, [torch.inf if overflow else 1.0]) == [overflow]
        assert float(guard.loss_scale) == scaler.get_scale()
        assert float(guard.good_steps) == scaler.state_dict()["_growth_tracker"]


def test_the_scale_doubles_after_enough_good_steps() -> None:
    guard = Guard(CPU, scales=True)
    guard.restore(8.0, STEPS_TO_DOUBLE - 2)
    assert follow(guard, [1.0, 1.0, 1.0]) == [0, 0, 0]
    assert (float(guard.loss_scale), float(guard.good_steps)) == (16.0, 1.0)


def test_in_fp16_the_last_scale_is_tried_before_a_run_is_given_up() -> None:
    guard = Guard(CPU, scales=True)
    guard.restore(2.0, 0)
    assert follow(guard, [torch.inf]) == [1]
    assert (float(guard.loss_scale), float(guard.has_diverged)) == (1.0, 0.0)
    assert follow(guard, [1.0, torch.nan]) == [0, 1]
    assert float(guard.has_diverged) == 1.0
    assert follow(guard, [1.0, 1.0]) == [1, 1], "what comes after it leaves the weights alone, too"


@pytest.mark.parametrize(("loss", "norm"), [(torch.nan, 1.0), (torch.inf, 1.0), (1.0, torch.inf)])
def test_without_a_scale_the_first_number_that_is_not_finite_holds_all_later_steps_back(
    loss: float, norm: float
) -> None:
    guard = Guard(CPU, scales=False)
    assert follow(guard, [1.0]) == [0]
    assert float(guard.judge(torch.tensor(loss), torch.tensor(norm))) == 1
    assert follow(guard, [1.0]) == [1]
    assert float(guard.has_diverged) == 1
