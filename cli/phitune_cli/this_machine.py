"""How a job that is written for a cluster runs on one machine: same global batch, processes that fit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from phitune_operator.api import FineTuneJob
from phitune_operator.blocked import BlockedError
from phitune_operator.defaults import Resolved, resolve
from phitune_operator.suitable import check_memory
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.memory import Gpu, gib, host_bytes, setup_of

_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")
"""One of them exists where an NVIDIA driver is loaded: on Linux, on Linux inside Windows."""


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    cpus: int
    gpus: int = 0
    gpu: Gpu | None = None
    """What all of its GPUs have; None without GPUs."""
    no_flash: str | None = None
    """Why flash attention cannot run on them, though they may be new enough for it; None if it can."""


@dataclass(frozen=True)
class LocalConfig:
    """A config for this machine, and a sentence for each choice that was made."""

    train: TrainConfig
    notes: list[str] = field(default_factory=list)


def detect_machine() -> Machine:
    """Look for GPUs and count the CPUs. torch, slow to import, is asked only where there may be a GPU."""
    from phitune_trainer.processes import available_cpus

    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return Machine(available_cpus())
    import torch

    if not torch.cuda.is_available():
        return Machine(available_cpus())
    from phitune_trainer.model.flash import why_not

    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpu = Gpu(
        devices[0].name,
        min(device.total_memory for device in devices),
        min((device.major, device.minor) for device in devices),
    )
    return Machine(available_cpus(), len(devices), gpu, why_not(torch.device("cuda"), torch.bfloat16))


def localize(job: FineTuneJob, machine: Machine, *, namespace: str, uid: str, workspace: str) -> LocalConfig:
    """Resolve `job` for `machine`.

    The global batch stays what it is on the cluster, since it is part of what is learned. Precision,
    attention, samples of a pass and recomputation follow the GPU and its memory, or the CPU where there is
    none. Raises UserError with the field where the GPU cannot do what is asked, or is far too small for it.
    """
    asked = resolve(job, namespace=namespace, uid=uid).train
    global_batch = asked.training.global_batch_size
    devices = machine.gpus or min(machine.cpus, asked.world.size)
    ranks = max(count for count in range(1, devices + 1) if global_batch % count == 0)
    spec = job.spec.model_copy(
        update={
            "resources": job.spec.resources.model_copy(
                update={
                    "nodes": 1,
                    "gpus_per_node": ranks if machine.gpus else 0,
                    "processes_per_node": None if machine.gpus else ranks,
                }
            ),
            "training": job.spec.training.model_copy(
                update={
                    "global_batch_size": global_batch,
                    "per_device_batch_size": _batch_a_pass(job, global_batch // ranks),
                    "precision": job.spec.training.precision if machine.gpus else "auto",
                    "attention": _attention(job, machine),
                }
            ),
        }
    )
    resolved = _resolve(job.model_copy(update={"spec": spec}), machine, namespace=namespace, uid=uid)
    run = resolved.train.run.model_copy(update={"workspace": workspace})
    return LocalConfig(
        resolved.train.model_copy(update={"run": run}),
        [*_notes(asked, resolved.train, machine), *resolved.notes],
    )


def check_host_memory(config: TrainConfig, available: int) -> None:
    """UserError where the optimizer is to lie in the memory of this machine, and too few bytes are left."""
    needed = config.world.processes_per_node * host_bytes(setup_of(config))
    if needed > available:
        raise UserError(
            f"spec.training.offloadOptimizer: the optimizer takes about {gib(needed)} GiB of this machine's "
            f"memory, of which {gib(available)} are left; end other programs, or use spec.method: lora"
        )


def _resolve(job: FineTuneJob, machine: Machine, *, namespace: str, uid: str) -> Resolved:
    try:
        resolved = resolve(job, namespace=namespace, uid=uid, gpu=machine.gpu)
        if machine.gpu is not None:
            check_memory(resolved.train, resolved.memory, machine.gpu)
    except BlockedError as error:
        raise UserError(error.message) from error
    if machine.no_flash and resolved.train.training.attention == "flash":
        raise UserError(
            f"spec.training.attention: flash cannot run here, {machine.no_flash}; use auto or sdpa"
        )
    return resolved


def _attention(job: FineTuneJob, machine: Machine) -> Literal["auto", "flash", "sdpa", "eager"]:
    """What was asked for, but never chosen here what cannot run here."""
    asked = job.spec.training.attention
    if not machine.gpus and asked == "flash":
        return "auto"
    return "sdpa" if asked == "auto" and machine.no_flash else asked


def _batch_a_pass(job: FineTuneJob, rank_batch: int) -> int | None:
    """The number that was asked for, or the next lower one that divides a rank's samples."""
    asked = job.spec.training.per_device_batch_size
    if asked is None:
        return None
    return max(size for size in range(1, min(asked, rank_batch) + 1) if rank_batch % size == 0)


def _notes(asked: TrainConfig, local: TrainConfig, machine: Machine) -> list[str]:
    where = f"{machine.gpus} x {machine.gpu.name}" if machine.gpu else f"{machine.cpus} CPUs, no GPU"
    world = asked.world
    first = (
        f"this machine has {where}: {world.nodes} nodes x {world.processes_per_node} processes become "
        f"{local.world.size} processes here, with the same global batch of {local.training.global_batch_size}"
    )
    notes = [first]
    if not machine.gpus and local.training.precision != asked.training.precision:
        notes.append(f"precision {local.training.precision}, which this machine computes best")
    if machine.no_flash and local.training.attention == "sdpa":
        notes.append(f"attention sdpa: flash attention cannot run here, {machine.no_flash}")
    return notes
