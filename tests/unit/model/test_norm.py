"""The norm of the text layers: the published numbers to the bit, and one kernel on a GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from phitune_trainer.model.language import RMSNorm

EPS = 1e-5


def published(x: Tensor, weight: Tensor) -> Tensor:
    """As the published code has it."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * wide.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_and_its_gradients_are_the_published_ones_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(shape, generator=generator).to(dtype) for shape in [(300, 96), (96,), (300, 96)]
    )
    norm = RMSNorm(96, EPS)
    norm.weight = torch.nn.Parameter(weight)
    found = []
    for normed, of in ((published, weight.clone().requires_grad_()), (lambda x, _: norm(x), norm.weight)):
        given = x.clone().requires_grad_()
        out = normed(given, of)
        found.append((out, *torch.autograd.grad(out, (given, of), gradient)))
    assert all(map(torch.equal, *found))


class Names(TorchDispatchMode):
    """The operations that are launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten":
            self.launched.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_norm_is_one_kernel_on_a_gpu_that_keeps_its_input_and_a_number_a_token(is_trained: bool) -> None:
    """What the memory model reckons with (memory/activations.py). On tensors without data."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.nbytes
        return tensor

    with FakeTensorMode():
        norm = RMSNorm(64, EPS)
        weight = torch.empty(64, dtype=torch.bfloat16, device="cuda")
        norm.weight = torch.nn.Parameter(weight, requires_grad=is_trained)
        x = torch.empty(5, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Names() as names:
            norm(x)
    assert names.launched == ["_fused_rms_norm", "mul"]
    rows = 2 if is_trained else 1
    assert sum(kept.values()) - weight.nbytes == 5 * (rows * 64 * 2 + 4)
