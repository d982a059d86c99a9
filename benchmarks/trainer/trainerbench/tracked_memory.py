"""The peak of an optimizer step as torch's memory tracker sees it: every tensor counted, none of them made.

Fake tensors have shapes and lifetimes but no data, so the full-size model needs neither memory nor a GPU.
They live on the "cpu"; the kernels that a GPU would choose keep the same tensors for the backward pass, but
for flash attention, which cannot be traced here, dropout, whose mask is larger here, and the norm of the text
layers, for which one stands here that keeps what a GPU's does.
"""

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from phitune_trainer.engine import ADAMW
from phitune_trainer.memory import Content, Setup
from phitune_trainer.memory.estimate import trained_parameters
from phitune_trainer.model import Phi3V, Sample, collate
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model_config import ModelConfig
from trainerbench.fake_model import fake_batch, make_fake, on_no_device

ROWS, COLUMNS = 4, 4
"""Crops of the picture of each sample."""


def page(config: ModelConfig, *, text_tokens: int, label_tokens: int) -> tuple[Sample, Content]:
    """A sample of one picture with some text, and its sizes."""
    picture_tokens = config.vision.image_tokens(ROWS, COLUMNS)
    input_ids = torch.tensor([-1] * picture_tokens + [5] * text_tokens)
    labels = torch.full_like(input_ids, IGNORED)
    labels[-label_tokens:] = 5
    edge = config.vision.image_size
    picture = torch.zeros(ROWS * edge, COLUMNS * edge, 3, dtype=torch.uint8)
    sizes = Content(
        tokens=picture_tokens + text_tokens,
        crops=ROWS * COLUMNS + 1,
        picture_tokens=picture_tokens,
        label_tokens=label_tokens,
    )
    return Sample(input_ids=input_ids, labels=labels, pictures=(picture,)), sizes


def tracked_peak(setup: Setup, sample: Sample) -> int:
    """Bytes of all tensors at the peak of a step on `setup.micro_batch` samples, but for what is sent."""
    model = on_no_device(setup)
    batch = collate([sample] * setup.micro_batch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # the rotary frequencies are real
        make_fake(model)
        batch = fake_batch(batch, mode)
        with _WholeTracker() as tracker, patch.object(functional, "rms_norm", _rms_norm):
            tracker.track_external(model)
            step = _Partitioned(model, setup) if setup.method == "full" else _Replicated(model)
            model(batch).backward()
            step()
        snapshot = tracker.get_tracker_snapshot("peak")
    return sum(parts["Total"] for device, parts in snapshot.items() if device.type == "cpu")


class _Normed(torch.autograd.Function):
    """What the kernel of a GPU keeps and makes: tests/unit/model/test_norm.py has what that is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """(T, size) to the same shape."""
        ctx.save_for_backward(x, x.new_empty((len(x), 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """The gradient of x."""
        assert len(ctx.saved_tensors) == 2
        return torch.empty_like(gradients[0])


def _rms_norm(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    normed: torch.Tensor = _Normed.apply(x)
    return normed


class _WholeTracker(MemTracker):  # type: ignore[no-untyped-call]
    """The tracker without the peaks of each module, which are looked through again at every operation."""

    def _update_peak_stats(self, peak_state: Any) -> None:
        modules, self.memory_tracking = self.memory_tracking, WeakIdKeyDictionary()
        super()._update_peak_stats(peak_state)
        self.memory_tracking = modules


class _Partitioned:
    """What ZeRO-2 holds on one rank and does in a step, without the other ranks and their traffic."""

    def __init__(self, model: Phi3V, setup: Setup) -> None:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
        share = -(-trained_parameters(setup) // setup.ranks)
        self._partition = torch.nn.Parameter(torch.zeros(share, dtype=torch.float32))
        self._gradient = torch.zeros(share, dtype=torch.float32)
        self._step = _adamw([self._partition])
        self()  # Adam's averages are there from the second step on

    def __call__(self) -> None:
        self._partition.grad = self._gradient
        self._step()
        self._partition.grad = None


class _Replicated:
    """What data parallelism holds and does in a step: gradients that are there all the time; then AdamW."""

    def __init__(self, model: Phi3V) -> None:
        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._step = _adamw(parameters)
        self()  # Adam's averages are there from the second step on

    def __call__(self) -> None:
        self._step()


def _adamw(parameters: Iterable[torch.nn.Parameter]) -> Callable[[], object]:
    """The engines' AdamW."""
    return torch.optim.AdamW(parameters, lr=1e-4, **ADAMW).step


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None
