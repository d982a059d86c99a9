"""Full fine-tuning: DeepSpeed ZeRO-2, gradients and optimizer state spread over the ranks."""

import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

import torch

from phitune_trainer.engine import (
    ADAM_BETAS,
    ADAM_EPS,
    MAX_GRAD_NORM,
    STATE_KINDS,
    Fragment,
    ReadState,
    decay_groups,
)
from phitune_trainer.engine.world import World

_MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
_BUCKET_ELEMENTS = 50_000_000
"""Gradients sent at a time: large enough for full bandwidth, small beside the weights."""


class Zero2:
    """The weights stay whole on every rank; of everything else a rank keeps 1/size."""

    def __init__(
        self,
        model: torch.nn.Module,
        world: World,
        *,
        weight_decay: float,
        precision: Literal["bf16", "fp16", "fp32"],
    ) -> None:
        os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # or it warns that it had to guess
        import deepspeed  # here, because it takes seconds and only this engine needs it

        self.summary = f"DeepSpeed ZeRO-2: gradients and optimizer state spread over {world.size} ranks"
        self._world = world
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _leave_out_muon()
        _leave_out_compiled_ops()
        self._engine, optimizer, _, _ = deepspeed.initialize(
            model=model,
            model_parameters=decay_groups(self._parameters, weight_decay),
            config=_config(precision),
            dist_init_required=False,
        )
        self._optimizer: Any = optimizer

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """See Engine."""
        return self._parameters

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """See Engine."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed divides by the number of ranks; the loss is already this rank's share of the mean.
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)
        if not is_last:
            self._engine.step()

    def step(self, learning_rate: float) -> torch.Tensor:
        """See Engine."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()  # skips the weights where the norm is not finite, and then says "inf"
        return torch.as_tensor(self._engine.get_global_grad_norm())

    def fragments(self) -> Iterator[Fragment]:
        """See Engine."""
        for name, parameter in self._parameters.items():
            if (mapping := _mapping(parameter)) is None:
                continue  # all of this parameter's state lies with other ranks
            states = self._states(mapping.param_group_index)
            start, here = mapping.lp_fragment_address.start, mapping.hp_fragment_address
            for kind in STATE_KINDS:
                yield Fragment(kind, name, start, states[kind].narrow(0, here.start, here.numel))

    def restore(self, read: ReadState, step: int) -> None:
        """See Engine."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(read("weight", name, 0, parameter.numel()).view_as(parameter))
            if (mapping := _mapping(parameter)) is None:
                continue
            states = self._states(mapping.param_group_index)
            states["step"].fill_(step)
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
            state["step"] = torch.tensor(0.0)
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

    It asks in every reduction whether ours is of that class. Saves seconds at the start of every rank.
    """
    module: Any = ModuleType(_MUON)
    module.MuonWithAuxAdam = type("MuonWithAuxAdam", (), {})
    sys.modules.setdefault(_MUON, module)


def _config(precision: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own throughput lines would use it
        "gradient_accumulation_steps": 1,  # `backward` is told which pass is the last
        "gradient_clipping": MAX_GRAD_NORM,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        },
        "zero_allow_untested_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 0.0, "betas": list(ADAM_BETAS), "eps": ADAM_EPS, "torch_adam": True},
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
