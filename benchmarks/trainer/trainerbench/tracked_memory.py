"""The peak of an optimizer step as torch's memory tracker sees it: every tensor counted, none of them made.

Fake tensors have shapes and lifetimes but no data, so the full-size model needs neither memory nor a GPU.
They live on the "cpu"; the kernels that a GPU would choose keep the same tensors for the backward pass, but
for flash attention, which cannot be traced here, and dropout, whose mask is larger here.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from phitune_trainer.config import Lora
from phitune_trainer.memory import Content, ModelShape, Setup, VisionShape
from phitune_trainer.memory.estimate import trained_parameters
from phitune_trainer.methods.full import train_all
from phitune_trainer.model import Batch, Phi3V, Sample, collate
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model_config import ModelConfig

ROWS, COLUMNS = 4, 4
"""Crops of the picture of each sample."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def shape_of(config: ModelConfig) -> ModelShape:
    """The sizes of a model as the memory model takes them."""
    vision = VisionShape(**dataclasses.asdict(config.vision))
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
    return ModelShape(**{name: getattr(config, name) for name in names}, vision=vision)


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


def tracked_peak(config: ModelConfig, setup: Setup, sample: Sample) -> int:
    """Bytes of all tensors at the peak of a step on `setup.micro_batch` samples, but for what is sent."""
    model = _on_no_device(config, setup)
    batch = collate([sample] * setup.micro_batch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # the rotary frequencies are real
        _make_fake(model)
        batch = _fake_batch(batch, mode)
        with MemTracker() as tracker:
            tracker.track_external(model)
            step = _Partitioned(model, setup) if setup.method == "full" else _Replicated(model)
            model(batch).backward()
            step()
        snapshot = tracker.get_tracker_snapshot("peak")
    return sum(parts["Total"] for device, parts in snapshot.items() if device.type == "cpu")


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
    """What data parallelism does in a step: one flat copy of all gradients, summed; then AdamW."""

    def __init__(self, model: Phi3V) -> None:
        self._parameters = list(model.parameters())
        self._step = _adamw(self._parameters)
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self()
        for parameter in self._parameters:
            parameter.grad = None

    def __call__(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        parts = torch.split(flat, [parameter.numel() for parameter in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        del gradients
        self._step()


def _adamw(parameters: Iterable[torch.nn.Parameter]) -> Callable[[], object]:
    """AdamW over all tensors at once, as torch chooses by itself on GPUs."""
    return torch.optim.AdamW(parameters, lr=1e-4, foreach=True).step


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _on_no_device(config: ModelConfig, setup: Setup) -> Phi3V:
    """The model with its method, its trained parameters chosen, on the meta device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(_DTYPES[setup.precision])
    try:
        with torch.device("meta"):
            model = Phi3V(config, attention=setup.attention)
            if setup.method == "full":
                train_all(model, freeze_vision=setup.freeze_vision)
            else:
                from phitune_trainer.methods.lora import add_adapters

                dropout = 0.1 if setup.lora_dropout else 0.0
                lora = Lora(rank=setup.lora_rank, alpha=16, dropout=dropout, vision=setup.lora_vision)
                add_adapters(model, lora, seed=0)
    finally:
        torch.set_default_dtype(before)
    model.set_gradient_checkpointing(setup.recompute)
    return model.train()


def _make_fake(model: Phi3V) -> None:
    """Replace the parameters by fake ones, and those that are not trained by buffers.

    The tracker puts a hook on every parameter, which torch refuses for those without a gradient.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=parameter.dtype)
            delattr(module, name)
            if parameter.requires_grad:
                module.register_parameter(name, torch.nn.Parameter(values))
            else:
                module.register_buffer(name, values)


def _fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    fake: dict[str, Any] = {
        name: mode.from_tensor(value) for name, value in values.items() if isinstance(value, torch.Tensor)
    }
    fake["pictures"] = tuple(mode.from_tensor(picture) for picture in batch.pictures)
    return dataclasses.replace(batch, **fake)
