"""Adapters: every rank keeps all gradients and all optimizer state, which are small."""

from collections.abc import Iterator
from typing import Literal

import torch

from phitune_trainer.engine import ADAM_BETAS, ADAM_EPS, MAX_GRAD_NORM, Fragment, ReadState, decay_groups
from phitune_trainer.engine.world import World


class DataParallel:
    """One all-reduce a step over all gradients.

    A parameter without a gradient (no picture in this rank's samples, say) counts as zeros, so the ranks
    never wait for each other over which parameters took part.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        world: World,
        *,
        weight_decay: float,
        precision: Literal["bf16", "fp16", "fp32"],
    ) -> None:
        self.summary = "data parallel: every rank keeps the adapters' whole state, which is small"
        self._world = world
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            decay_groups(self._parameters, weight_decay), lr=0.0, betas=ADAM_BETAS, eps=ADAM_EPS
        )
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """See Engine."""
        return self._parameters

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """See Engine."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> torch.Tensor:
        """See Engine."""
        self._sum_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM)
        if self._scaler.is_enabled() or bool(norm.isfinite()):  # the scaler looks for itself
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return norm

    def fragments(self) -> Iterator[Fragment]:
        """See Engine."""
        if not self._world.is_first:
            return
        for name, parameter in self._parameters.items():
            state = self._state(parameter)
            yield Fragment("weight", name, 0, parameter.detach().float().flatten())
            for kind in ("exp_avg", "exp_avg_sq"):
                yield Fragment(kind, name, 0, state[kind].float().flatten())

    def restore(self, read: ReadState, step: int) -> None:
        """See Engine."""
        for name, parameter in self._parameters.items():
            size = parameter.numel()
            parameter.data.copy_(read("weight", name, 0, size).view_as(parameter))
            state = self._state(parameter)
            state["step"].fill_(step)
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind].copy_(read(kind, name, 0, size).view_as(parameter))

    def _sum_gradients(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters.values()]
        flat = self._world.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        for parameter, total in zip(self._parameters.values(), torch.split(flat, sizes), strict=True):
            parameter.grad = total.view_as(parameter)

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Adam's state of a parameter; zeros before the first step."""
        state: dict[str, torch.Tensor] = self._optimizer.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
