"""Where numbers stop being finite: which samples and which layer, asked only once a step has gone wrong.

Nothing of this costs anything before. Then each rank computes its passes once more, from the same weights and
random numbers, and every module is watched.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from phitune_trainer.engine.world import World

REMEDY: Final = (
    "the weights are unchanged and nothing of this step was saved; try a lower training.learningRate"
)
_MOST_SAMPLES: Final = 8


@dataclass(frozen=True)
class Pass:
    """One forward pass of a rank, as it can be computed again."""

    where: tuple[str, ...]
    """Where each of its samples comes from."""
    compute: Callable[[], Tensor]
    """Its loss, a scalar."""


def find_origin(world: World, model: nn.Module, passes: Sequence[Pass], *, of_gradient: bool) -> str:
    """The samples and the layer with which numbers are first not finite, in words; collective.

    `passes`: those of this rank in their order, random numbers as they were before the first of them.
    `of_gradient`: the loss is finite, its gradient is not.
    """
    watch = first_in_backward if of_gradient else first_in_forward
    own = [(one.where, layer) for one in passes if (layer := watch(model, one.compute)) is not None]
    found = [pair for ranks in world.gather(own) for pair in ranks]
    if not found:
        return f"it is finite in every pass by itself; {REMEDY}"
    samples = [where for group, _ in found for where in group]
    more = f" and {len(samples) - _MOST_SAMPLES} more" if len(samples) > _MOST_SAMPLES else ""
    among = f"look at the samples {', '.join(samples[:_MOST_SAMPLES])}{more}; " if samples else ""
    layers = list(dict.fromkeys(layer for _, layer in found))
    return f"{among}it begins in {' and in '.join(layers[:2])}; {REMEDY}"


def first_in_forward(model: nn.Module, compute: Callable[[], Tensor]) -> str | None:
    """The innermost module that made a number that is not finite of ones that are; None if all are finite."""
    found: list[str] = []

    def watch(name: str, _: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not _is_finite(output):
            # Its inputs were not finite already: they come from what its parent computes between modules.
            found.append(_describe(model, name if _is_finite(inputs) else name.rpartition(".")[0]))

    with torch.no_grad(), _watching(model, watch):
        loss = compute()
    if not found and not _is_finite(loss):
        return "the loss itself"
    return found[0] if found else None


def first_in_backward(model: nn.Module, compute: Callable[[], Tensor]) -> str | None:
    """The innermost module to which a finite gradient comes and which makes one of it that is not."""
    order: list[str] = []
    good_outputs, bad_inputs = set[str](), set[str]()
    owners = {
        parameter: name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }

    def see_output(name: str, gradient: Tensor) -> None:
        if _is_finite(gradient):
            good_outputs.add(name)
        else:
            good_outputs.discard(name)

    def see_input(name: str, gradient: Tensor) -> None:
        if not _is_finite(gradient):
            bad_inputs.add(name)

    def see_parameter(name: str, gradient: Tensor) -> Tensor:
        see_input(name, gradient)
        return gradient.new_zeros(()).expand_as(gradient)  # is kept until the end, and so takes no memory

    def watch(name: str, _: nn.Module, inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled() and name not in order:
            order.append(name)
            for tensor in _with_gradient(inputs):
                tensor.register_hook(partial(see_input, name))  # type: ignore[no-untyped-call]
            for tensor in _with_gradient(output):
                tensor.register_hook(partial(see_output, name))  # type: ignore[no-untyped-call]

    handles = [
        parameter.register_hook(partial(see_parameter, name))  # type: ignore[no-untyped-call]
        for parameter, name in owners.items()
    ]
    try:
        with _watching(model, watch):
            # Not `backward`: the engine would take the gradients for those of the next step.
            torch.autograd.grad(compute(), list(owners), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    if not bad_inputs:
        return None
    # A module comes after those inside it, and the backward pass begins with the last.
    culprits = [name for name in order if name in bad_inputs and name in good_outputs]
    inner = [name for name in culprits if not any(other.startswith(f"{name}.") for other in culprits)]
    return _describe(model, inner[-1]) if inner else "the loss itself"


@contextmanager
def _watching(model: nn.Module, watch: Callable[[str, nn.Module, Any, Any], None]) -> Iterator[None]:
    """Within this block `watch` is called after each module: its name, it, its inputs, its output."""
    handles: list[RemovableHandle] = [
        module.register_forward_hook(partial(watch, name)) for name, module in model.named_modules() if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _describe(model: nn.Module, name: str) -> str:
    if not name:
        return "the loss itself"
    module = model.get_submodule(name)
    spoilt = [own for own, weight in module.named_parameters() if not _is_finite(weight)]
    weights = f", whose weights are not finite themselves ({spoilt[0]})" if spoilt else ""
    return f"layer {name}{weights}"


def _is_finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value) if tensor.is_floating_point())


def _with_gradient(value: Any) -> Iterator[Tensor]:
    return (tensor for tensor in _tensors(value) if tensor.requires_grad)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
