"""Adapters: every rank keeps all gradients and all optimizer state, which are small."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist

from phitune_trainer.engine import ADAMW, MAX_GRAD_NORM, Fragment, Outcome, ReadState, decay_groups
from phitune_trainer.engine.guard import Guard
from phitune_trainer.engine.world import World
from phitune_trainer.host_copy import HostCopy

_BUCKET_ELEMENTS = 8_000_000
"""Gradients sent at a time: few messages, and the first of them long before the backward pass ends."""


class _Bucket:
    """Gradients that are summed over the ranks as one message; each is a view of a flat buffer."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
        for parameter, gradient in zip(parameters, torch.split(self.flat, sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        self.parameters = parameters
        self.num_missing = len(parameters)
        self._sum: Any = None

    def send(self) -> None:
        """Start to sum over the ranks."""
        self._sum = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        """Wait for the sum; on a GPU, let the device wait for it."""
        self._sum.wait()

    def clear(self) -> None:
        """Make ready for the next step."""
        self.flat.zero_()
        self.num_missing = len(self.parameters)


class DataParallel:
    """Gradients are summed over the ranks while the last backward pass of a step goes on.

    A bucket is sent when all its gradients are there, in one order on every rank, whichever parameters took
    part: what is still missing at the end of the pass (no picture in this rank's samples, say) is zeros.
    A step asks the device for nothing: on a GPU the host is a step ahead of it.
    """

    steps_ahead = 1

    def __init__(
        self,
        model: torch.nn.Module,
        world: World,
        *,
        weight_decay: float,
        precision: Literal["bf16", "fp16", "fp32"],
        bucket_elements: int = _BUCKET_ELEMENTS,
    ) -> None:
        self.summary = "data parallel: every rank keeps the adapters' whole state, which is small"
        self._world = world
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(decay_groups(self._parameters, weight_decay), lr=0.0, **ADAMW)
        self._guard = Guard(world.device, scales=precision == "fp16")
        # The backward pass comes to the last parameters first.
        self._buckets = [
            _Bucket(group) for group in _groups(list(self._parameters.values())[::-1], bucket_elements)
        ]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._on_gradient, bucket)
                )
        self._num_sent = 0
        self._is_last_pass = False

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """See Engine."""
        return self._parameters

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """See Engine."""
        self._is_last_pass = is_last
        scaled = loss * self._guard.loss_scale if self._guard.scales else loss
        scaled.backward()  # type: ignore[no-untyped-call]
        if is_last:  # at once, lest another collective comes between them on some ranks only
            self._send(self._buckets[self._num_sent :])

    def step(self, learning_rate: float, loss: torch.Tensor) -> Callable[[], Outcome]:
        """See Engine."""
        for bucket in self._buckets:
            bucket.receive()
            if self._guard.scales:
                bucket.flat.div_(self._guard.loss_scale)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM)
        # Fused AdamW looks for it, as torch's own scaler sets it, and then changes nothing of its state.
        self._optimizer.found_inf = self._guard.judge(loss, norm)  # type: ignore[attr-defined]
        self._optimizer.step()
        for bucket in self._buckets:
            bucket.clear()
        self._num_sent = 0
        numbers = HostCopy(torch.stack([loss, norm, self._guard.has_diverged, self._guard.loss_scale]))

        def outcome() -> Outcome:
            loss, grad_norm, has_diverged, loss_scale = numbers.wait().tolist()
            return Outcome(loss, grad_norm, bool(has_diverged), loss_scale)

        return outcome

    def fragments(self) -> Iterator[Fragment]:
        """See Engine."""
        if not self._world.is_first:
            return
        for name, parameter in self._parameters.items():
            state = self._state(parameter)
            yield Fragment("weight", name, 0, parameter.detach().float().flatten())
            for kind in ("exp_avg", "exp_avg_sq"):
                yield Fragment(kind, name, 0, state[kind].float().flatten())

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        first = next(iter(self._parameters.values()))
        scalars = {"adamStep": float(self._state(first)["step"])}
        if self._guard.scales:
            scalars |= {
                "lossScale": float(self._guard.loss_scale),
                "goodSteps": float(self._guard.good_steps),
            }
        return scalars

    def restore(self, read: ReadState, scalars: dict[str, float]) -> None:
        """See Engine."""
        if self._guard.scales:
            self._guard.restore(scalars["lossScale"], scalars["goodSteps"])
        for name, parameter in self._parameters.items():
            size = parameter.numel()
            parameter.data.copy_(read("weight", name, 0, size).view_as(parameter))
            state = self._state(parameter)
            state["step"].fill_(scalars["adamStep"])
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind].copy_(read(kind, name, 0, size).view_as(parameter))

    def _on_gradient(self, bucket: _Bucket, _: torch.Tensor) -> None:
        if not self._is_last_pass:
            return
        bucket.num_missing -= 1
        complete = self._num_sent
        while complete < len(self._buckets) and not self._buckets[complete].num_missing:
            complete += 1
        self._send(self._buckets[self._num_sent : complete])

    def _send(self, buckets: Sequence[_Bucket]) -> None:
        for bucket in buckets:
            bucket.send()
        self._num_sent += len(buckets)

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Adam's state of a parameter; zeros before the first step."""
        state: dict[str, torch.Tensor] = self._optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _groups(parameters: Sequence[torch.nn.Parameter], limit: int) -> list[list[torch.nn.Parameter]]:
    """Neighbours of together at most `limit` elements; a larger one is alone."""
    groups: list[list[torch.nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        room -= parameter.numel()
        if not groups or room < 0:
            groups.append([])
            room = limit - parameter.numel()
        groups[-1].append(parameter)
    return groups
