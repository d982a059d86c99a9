"""The memory model of an optimizer on the host, against what DeepSpeed holds then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from harness.ranks import run_in_ranks
from phitune_trainer.engine.world import World
from phitune_trainer.engine.zero2 import Zero2
from phitune_trainer.memory import Content, Setup, estimate, host_bytes
from phitune_trainer.memory.counts import largest_parameter
from phitune_trainer.memory.estimate import BUCKET_ELEMENTS
from phitune_trainer.methods.full import train_all
from phitune_trainer.model import Phi3V
from phitune_trainer.model_config import tiny_config

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SAMPLE = Content(tokens=1, crops=1, picture_tokens=0, label_tokens=1)
ADAM_KINDS = ("exp_avg", "exp_avg_sq")


def held(precision: Literal["bf16", "fp32"]) -> Callable[[World], dict[str, int]]:
    """What there is after two passes and a step with the optimizer on the host.

    Bytes on the host, bytes of gradients on the device, elements of a bucket and of the room for a gradient.
    """

    def run(world: World) -> dict[str, int]:
        torch.set_num_threads(1)
        model = Phi3V(tiny_config()).to(DTYPES[precision])
        train_all(model, freeze_vision=False)
        engine = Zero2(model, world, weight_decay=0.0, precision=precision, offload_optimizer=True)
        for is_last in (False, True):
            loss = sum((p.sum() for p in engine.parameters.values()), start=torch.zeros(()))
            engine.backward(loss, is_last=is_last)
        optimizer: Any = engine._optimizer
        partitions = [getattr(kept, "flat_partition", None) for kept in optimizer.averaged_gradients.values()]
        on_device = sum(flat.nbytes for flat in partitions if flat is not None)
        engine.step(1e-3, torch.zeros(()))
        flat_weights = optimizer.single_partition_of_fp32_groups
        averages = [state[kind] for state in optimizer.optimizer.state.values() for kind in ADAM_KINDS]
        on_host = [
            *flat_weights,
            *(weights.grad for weights in flat_weights),
            *averages,
            *optimizer.param_buffer_of_bit16_for_cpu_offload_groups,
            *optimizer.accumulated_grads_in_cpu.values(),
            optimizer.temp_grad_buffer_for_cpu_offload,
        ]
        return {
            "device": on_device,
            "host": sum(tensor.nbytes for tensor in on_host),
            "bucket": optimizer.reduce_bucket_size,
            "way back": optimizer.temp_grad_buffer_for_gpu_offload.numel(),
        }

    return run


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_host_holds_what_the_memory_model_says(
    precision: Literal["bf16", "fp32"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401  (slow: before the rank begins, which knows it then)

    (found,) = run_in_ranks(1, held(precision))
    setup = Setup(model=tiny_config(), method="full", precision=precision, offload=True, content=SAMPLE)
    assert found["host"] == host_bytes(setup)
    assert (found["bucket"], found["way back"]) == (BUCKET_ELEMENTS, largest_parameter(tiny_config()))
    assert found["device"] == (0 if precision == "fp32" else estimate(setup).gradients)


def test_nothing_is_on_the_host_unless_the_optimizer_is() -> None:
    assert host_bytes(Setup(method="full", content=SAMPLE)) == 0
