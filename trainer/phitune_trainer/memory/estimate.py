"""The peak of a device's memory by part: what the engine holds all the time, and what a pass adds."""

from dataclasses import dataclass, fields
from typing import Final

from phitune_trainer.memory import counts
from phitune_trainer.memory.activations import Activations, peak
from phitune_trainer.memory.gpus import GIB
from phitune_trainer.memory.setup import Setup

NF4_BYTES: Final = 0.5 + 4 / 64
"""Of a number in NF4: four bits, and a float32 scale for each block of 64 (bitsandbytes' default)."""
BUCKET_ELEMENTS: Final = 50_000_000
"""Gradients that ZeRO-2 sends at a time (engine/zero2.py); a bucket exists as a whole in any model."""
CONTEXT_BYTES: Final = 3 * GIB // 4
"""CUDA context, kernels and cuBLAS workspaces. Assumed: some 0.5 GiB before the first tensor, more with the
kernels that are loaded on the way."""
NCCL_BYTES: Final = GIB // 2
"""Channels of NCCL, with several ranks. Assumed."""
FRAGMENTATION: Final = 0.08
"""Of what a pass allocates and frees: rests of blocks that fit nothing. Assumed."""

_FP32: Final = 4
_FP64: Final = 8


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
    """The peak of one optimizer step on one rank. It is in a pass: a fused AdamW needs only its state.

    Evaluation needs less: it keeps no activations, but keys and values of as many samples as a pass has.
    """
    activations = peak(setup)
    share = _share(setup)
    on_device = 0 if setup.offload else share
    return Estimate(
        weights=_weights(setup),
        gradients=share * _gradient_bytes(setup),
        optimizer=on_device * _FP32 * (3 if setup.method == "full" else 2),
        text=activations.text,
        vision=activations.vision,
        logits=activations.logits,
        work=activations.work,
        buffers=_buffers(setup),
        fragmentation=_fragmentation(activations),
        context=CONTEXT_BYTES + (NCCL_BYTES if setup.ranks > 1 else 0),
    )


def trained_parameters(setup: Setup) -> int:
    """Parameters that have a gradient."""
    if setup.method == "full":
        return counts.trained_parameters(setup.model, freeze_vision=setup.freeze_vision)
    return counts.adapter_parameters(setup.model, setup.lora_rank, vision=setup.lora_vision)


def host_bytes(setup: Setup) -> int:
    """What the optimizer of one rank takes of the host's memory, where it is there; 0 where it is not.

    Weights, gradients and Adam's two averages in float32, the weights once more on their way back, in fp32
    the sum of the gradients, and the largest gradient on its way there.
    """
    if not setup.offload:
        return 0
    b = setup.element_bytes
    sums = _FP32 if setup.precision == "fp32" else 0
    return _share(setup) * (4 * _FP32 + b + sums) + counts.largest_parameter(setup.model) * b


def _share(setup: Setup) -> int:
    """Trained parameters whose gradients and optimizer state are kept by one rank."""
    trained = trained_parameters(setup)
    return -(-trained // setup.ranks) if setup.method == "full" else trained


def _weights(setup: Setup) -> int:
    """Of the whole model, CLIP's unused layer included; QLoRA quantises the text layers' matrices."""
    b = setup.element_bytes
    whole = counts.parameters(setup.model) * b
    if setup.method == "full":
        return whole
    if setup.method == "qlora":
        whole -= round(counts.text_matrices(setup.model) * (b - NF4_BYTES))
    return whole + trained_parameters(setup) * _FP32


def _gradient_bytes(setup: Setup) -> int:
    """Bytes of a trained parameter's gradient.

    DeepSpeed 0.19 adds up 16-bit gradients in one float32 partition, which stays on the GPU when the
    optimizer does not. In fp32 it keeps the gradients of the partition and their sum, which is on the host
    where the optimizer is.
    """
    is_twice = setup.method == "full" and setup.precision == "fp32" and not setup.offload
    return 2 * _FP32 if is_twice else _FP32


def _buffers(setup: Setup) -> int:
    """ZeRO-2's two buckets, of which one is filled while the other is sent, the copy that is sent, and the
    largest gradient, which passes the buckets by.

    With the optimizer on the host, also room for the largest gradient on its way back, and this rank's part
    of it in float64: its norm is then taken within the backward pass.
    """
    if setup.method != "full":
        return 0
    largest = counts.largest_parameter(setup.model)
    buckets = (3 * BUCKET_ELEMENTS + largest) * setup.element_bytes
    if not setup.offload:
        return buckets
    return buckets + largest * setup.element_bytes + min(largest, _share(setup)) * _FP64


def _fragmentation(activations: Activations) -> int:
    return round(FRAGMENTATION * activations.total)
