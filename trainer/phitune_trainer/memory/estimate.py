"""The peak of a device's memory by part: what the engine holds all the time, and what a pass adds."""

from dataclasses import dataclass, fields
from typing import Final

from phitune_trainer.memory.activations import Activations, peak
from phitune_trainer.memory.gpus import GIB
from phitune_trainer.memory.setup import Setup

NF4_BYTES: Final = 0.5 + 4 / 64
"""Of a number in NF4: four bits, and a float32 scale for each block of 64 (bitsandbytes' default)."""
BUCKET_ELEMENTS: Final = 50_000_000
"""Gradients that ZeRO-2 sends at a time (engine/zero2.py); the bucket exists as a whole in any model."""
CONTEXT_BYTES: Final = 3 * GIB // 4
"""CUDA context, kernels and cuBLAS workspaces. Assumed: some 0.5 GiB before the first tensor, more with the
kernels that are loaded on the way."""
NCCL_BYTES: Final = GIB // 2
"""Channels of NCCL, with several ranks. Assumed."""
FRAGMENTATION: Final = 0.08
"""Of what a pass allocates and frees: rests of blocks that fit nothing. Assumed."""

_FP32: Final = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes by part, at the moment that needs most."""

    weights: int
    """In the precision of the computation, or in NF4; adapters in float32. Whole on every rank."""
    gradients: int
    """This rank's share, in float32, kept over the passes of a step."""
    optimizer: int
    """This rank's share of Adam's two averages, and with ZeRO-2 of the weights in float32."""
    text: int
    """Kept of the text layers for the backward pass."""
    vision: int
    """Kept of CLIP and the projector for the backward pass."""
    logits: int
    """Logits of the labelled tokens and their gradient."""
    work: int
    """What the layer that is being computed needs beside that."""
    buffers: int
    """Gradients on their way between the ranks."""
    optimizer_step: int
    """What moving the weights needs beyond all of a pass, whose activations are freed by then."""
    fragmentation: int
    """Memory that the allocator holds and cannot use."""
    context: int
    """CUDA's context, and NCCL's channels."""

    @property
    def total(self) -> int:
        """All parts."""
        return sum(getattr(self, part.name) for part in fields(self))

    @property
    def tensors(self) -> int:
        """What torch's tensors take: all but fragmentation and context."""
        return self.total - self.fragmentation - self.context


def estimate(setup: Setup) -> Estimate:
    """The peak of one optimizer step on one rank.

    Evaluation needs less: it keeps no activations, but keys and values of as many samples as a pass has.
    """
    trained = trained_parameters(setup)
    activations = peak(setup)
    buffers = _buffers(setup)
    share = -(-trained // setup.ranks) if setup.method == "full" else trained
    on_device = 0 if setup.offload else share
    gradients = on_device * _gradient_bytes(setup)
    # AdamW over all tensors at once keeps the roots of the second averages; adapters' gradients are summed
    # over the ranks in one flat copy beside the gradients themselves.
    stepping = on_device * (_FP32 if setup.method == "full" else 2 * _FP32)
    passing = activations.total + buffers
    return Estimate(
        weights=_weights(setup),
        gradients=gradients,
        optimizer=on_device * _FP32 * (3 if setup.method == "full" else 2),
        text=activations.text,
        vision=activations.vision,
        logits=activations.logits,
        work=activations.work,
        buffers=buffers,
        optimizer_step=max(0, stepping - passing),
        fragmentation=_fragmentation(activations),
        context=CONTEXT_BYTES + (NCCL_BYTES if setup.ranks > 1 else 0),
    )


def trained_parameters(setup: Setup) -> int:
    """Parameters that have a gradient."""
    if setup.method == "full":
        return setup.shape.trained_parameters(freeze_vision=setup.freeze_vision)
    return setup.shape.adapter_parameters(setup.lora_rank, vision=setup.lora_vision)


def _weights(setup: Setup) -> int:
    """Of the whole model, CLIP's unused layer included; QLoRA quantises the text layers' matrices."""
    shape, b = setup.shape, setup.element_bytes
    whole = shape.parameters * b
    if setup.method == "full":
        return whole
    if setup.method == "qlora":
        quantised = shape.num_layers * shape.layer_linears
        whole -= round(quantised * (b - NF4_BYTES))
    return whole + trained_parameters(setup) * _FP32


def _gradient_bytes(setup: Setup) -> int:
    """Bytes of a trained parameter's gradient.

    DeepSpeed 0.19 adds up 16-bit gradients in one float32 partition; in fp32 it keeps the gradients of the
    partition and their sum.
    """
    return 2 * _FP32 if setup.method == "full" and setup.precision == "fp32" else _FP32


def _buffers(setup: Setup) -> int:
    """ZeRO-2's bucket, the copy of it that is sent, and the largest gradient, which passes the bucket by.

    With the optimizer on the host, also the largest gradient in float32 on its way there.
    """
    if setup.method != "full":
        return 0
    largest = setup.shape.vocab_size * setup.shape.hidden_size
    bucket = (2 * BUCKET_ELEMENTS + largest) * setup.element_bytes
    return bucket + (largest * _FP32 if setup.offload else 0)


def _fragmentation(activations: Activations) -> int:
    return round(FRAGMENTATION * activations.total)
