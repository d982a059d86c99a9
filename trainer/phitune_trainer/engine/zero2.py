"""Full fine-tuning: DeepSpeed ZeRO-2, gradients and optimizer state spread over the ranks."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed as dist

from phitune_trainer.engine import (
    ADAMW,
    LEAST_SCALE,
    MAX_GRAD_NORM,
    STATE_KINDS,
    Fragment,
    Outcome,
    ReadState,
    decay_groups,
)
from phitune_trainer.engine.gradient_order import GradientOrder
from phitune_trainer.engine.world import World
from phitune_trainer.plain_text import counted

_MUON = "deepspeed.runtime.zero.muon"
_BUCKET_ELEMENTS = 50_000_000
"""Gradients sent at a time: large enough for full bandwidth, small beside the weights."""


class Zero2:
    """The weights stay whole on every rank; of everything else a rank keeps 1/size.

    Each gradient is sent to the rank that keeps its state, and to no other. On GPUs that goes on beside the
    backward pass, in a stream of its own. DeepSpeed itself waits for the device in every step.
    """

    steps_ahead = 0

    def __init__(
        self,
        model: torch.nn.Module,
        world: World,
        *,
        weight_decay: float,
        precision: Literal["bf16", "fp16", "fp32"],
        offload_optimizer: bool = False,
    ) -> None:
        os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # or it warns that it had to guess
        import deepspeed  # here, because it takes seconds and only this engine needs it

        self.summary = (
            f"DeepSpeed ZeRO-2: gradients and optimizer state spread over {counted(world.size, 'rank')}"
        )
        if offload_optimizer:
            self.summary += "; the optimizer works in the memory of the host"
        self._world = world
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _leave_out_muon()
        _leave_out_compiled_ops()
        self._engine, optimizer, _, _ = deepspeed.initialize(
            model=model,
            model_parameters=decay_groups(self._parameters, weight_decay),
            config=_config(precision, world.device, offload_optimizer=offload_optimizer),
            dist_init_required=False,
        )
        self._optimizer: Any = optimizer
        optimizer.gradient_average = False  # the loss is already this rank's share of the mean
        optimizer.loss_scaler.raise_error_at_min_scale = False  # `step` says that, too
        if world.device.type == "cpu":
            optimizer.allreduce_bucket = partial(_sum_at_owner, world)
        self._order = GradientOrder(self._parameters, world)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """See Engine."""
        return self._parameters

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """See Engine."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)
        if not is_last:
            self._engine.step()

    def step(self, learning_rate: float, loss: torch.Tensor) -> Callable[[], Outcome]:
        """See Engine."""
        self._order.check()
        scaler, value = self._optimizer.loss_scaler, loss.item()
        scale = scaler.cur_scale if scaler.dynamic else LEAST_SCALE
        if not scaler.dynamic and not math.isfinite(value):
            return lambda: Outcome(value, math.nan, has_diverged=True, loss_scale=scale)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()  # skips the weights where the norm is not finite, and then says "inf"
        if self._optimizer.overflow:
            # With the optimizer on the host, DeepSpeed would add the next step's gradients to these.
            self._optimizer.averaged_gradients.update(dict.fromkeys(self._optimizer.averaged_gradients))
        outcome = Outcome(
            value,
            float(self._engine.get_global_grad_norm()),
            has_diverged=self._optimizer.overflow and scale <= LEAST_SCALE,
            loss_scale=scaler.cur_scale if scaler.dynamic else LEAST_SCALE,
        )
        return lambda: outcome

    def fragments(self) -> Iterator[Fragment]:
        """See Engine."""
        for name, parameter in self._parameters.items():
            if (mapping := _mapping(parameter)) is None:
                continue  # all of this parameter's state lies with other ranks
            states = self._states(mapping.param_group_index)
            start, here = mapping.lp_fragment_address.start, mapping.hp_fragment_address
            for kind in STATE_KINDS:
                yield Fragment(kind, name, start, states[kind].narrow(0, here.start, here.numel))

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        scalars = {"adamStep": float(self._states(0)["step"])}
        scaler = self._optimizer.loss_scaler
        if scaler.dynamic:
            scalars |= {
                "lossScale": scaler.cur_scale,
                "goodSteps": scaler.cur_iter - scaler.last_overflow_iter - 1,
                "hysteresis": scaler.cur_hysteresis,
            }
        return scalars

    def restore(self, read: ReadState, scalars: dict[str, float]) -> None:
        """See Engine."""
        scaler = self._optimizer.loss_scaler
        if scaler.dynamic:
            scaler.cur_scale = scalars["lossScale"]
            scaler.cur_iter, scaler.last_overflow_iter = int(scalars["goodSteps"]), -1
            scaler.cur_hysteresis = int(scalars["hysteresis"])
        for name, parameter in self._parameters.items():
            parameter.data.copy_(read("weight", name, 0, parameter.numel()).view_as(parameter))
            if (mapping := _mapping(parameter)) is None:
                continue
            states = self._states(mapping.param_group_index)
            states["step"].fill_(scalars["adamStep"])
            start, here = mapping.lp_fragment_address.start, mapping.hp_fragment_address
            for kind in STATE_KINDS:
                states[kind].narrow(0, here.start, here.numel).copy_(
                    read(kind, name, start, start + here.numel)
                )

    def _states(self, group: int) -> dict[str, torch.Tensor]:
        """This rank's flat state of a parameter group, as views; zeros before the first step."""
        flat = self._optimizer.single_partition_of_fp32_groups[group]
        state = self._optimizer.optimizer.state[flat]
        if not state:
            state["step"] = torch.zeros((), device=flat.device)
            state["exp_avg"] = torch.zeros_like(flat)
            state["exp_avg_sq"] = torch.zeros_like(flat)
        return {"weight": flat.data, **state}


def _mapping(parameter: torch.nn.Parameter) -> Any:
    """Where this rank's part of a parameter's state lies; None: it has no part of it."""
    return parameter._hp_mapping  # type: ignore[attr-defined]


def _leave_out_compiled_ops() -> None:
    """Tell DeepSpeed that none of its compiled operations is there, before it runs a compiler to find out.

    Pods have no compiler. Gloo reduces between the CPU ranks of one host as it does between hosts.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}


def _leave_out_muon() -> None:
    """Keep DeepSpeed from importing an optimizer that we do not use, and with it torch's whole compiler.

    It asks in every reduction whether ours is of that class, and in float32 has its step at hand. Saves
    seconds at the start of every rank.
    """
    for name, content in (
        ("muon_optimizer", {"MuonWithAuxAdam": type("MuonWithAuxAdam", (), {})}),
        ("original_muon", {"muon_update": None}),
    ):
        module = ModuleType(f"{_MUON}.{name}")
        module.__dict__.update(content)
        sys.modules.setdefault(module.__name__, module)


def _sum_at_owner(
    world: World, bucket: list[torch.Tensor], *_: Any, rank: int, **_options: Any
) -> torch.Tensor:
    """What DeepSpeed calls to sum the ranks' `bucket` at the one rank that keeps it, here for gloo.

    Gloo's reduce sends part of it twice, its reduce-scatter all of it. In float32 and in the order of the
    ranks, so that nothing else decides the bits. On the other ranks, what they had.
    """
    own = torch.cat([part.flatten() for part in bucket])
    if rank != world.rank:
        dist.gather(own, dst=rank)
        return own
    parts = [torch.empty_like(own) for _ in range(world.size)]
    dist.gather(own, parts, dst=rank)
    return torch.stack(parts).sum(dim=0, dtype=torch.float32)


def _config(precision: str, device: torch.device, *, offload_optimizer: bool) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own throughput lines would use it
        "gradient_accumulation_steps": 1,  # `backward` is told which pass is the last
        "gradient_clipping": MAX_GRAD_NORM,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": device.type == "cuda",
            "contiguous_gradients": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            "use_multi_rank_bucket_allreduce": False,  # or every gradient is sent to every rank
            "offload_optimizer": {"device": "cpu" if offload_optimizer else "none"},
        },
        "zero_allow_untested_optimizer": False,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.0, **ADAMW, "torch_adam": True}},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
