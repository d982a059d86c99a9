"""How a job that is written for a cluster runs on one machine: same global batch, processes that fit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from phitune_operator.api import FineTuneJob
from phitune_operator.defaults import resolve
from phitune_trainer.config import TrainConfig

_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")
"""One of them exists where an NVIDIA driver is loaded: on Linux, on Linux inside Windows."""


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    cpus: int
    gpus: int = 0
    gpu_name: str = ""
    compute_capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class LocalConfig:
    """A config for this machine, and a sentence for each choice that was made."""

    train: TrainConfig
    notes: list[str] = field(default_factory=list)


def detect_machine() -> Machine:
    """Look for GPUs and count the CPUs. torch, slow to import, is asked only where there may be a GPU."""
    from phitune_trainer.launch import available_cpus

    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return Machine(available_cpus())
    import torch

    if not torch.cuda.is_available():
        return Machine(available_cpus())
    return Machine(
        available_cpus(),
        torch.cuda.device_count(),
        torch.cuda.get_device_name(0),
        torch.cuda.get_device_capability(0),
    )


def localize(job: FineTuneJob, machine: Machine, *, namespace: str, uid: str, workspace: str) -> LocalConfig:
    """Resolve `job` for `machine`.

    The global batch stays what it is on the cluster, since it is part of what is learned. Precision,
    attention and batch a pass follow the GPU, or the CPU where there is none.
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
                }
            ),
        }
    )
    resolved = resolve(
        job.model_copy(update={"spec": spec}),
        namespace=namespace,
        uid=uid,
        compute_capability=machine.compute_capability,
    )
    run = resolved.train.run.model_copy(update={"workspace": workspace})
    return LocalConfig(
        resolved.train.model_copy(update={"run": run}),
        [*_notes(asked, resolved.train, machine), *resolved.notes],
    )


def _batch_a_pass(job: FineTuneJob, rank_batch: int) -> int | None:
    """The number that was asked for, or the next lower one that divides a rank's samples."""
    asked = job.spec.training.per_device_batch_size
    if asked is None:
        return None
    return max(size for size in range(1, min(asked, rank_batch) + 1) if rank_batch % size == 0)


def _notes(asked: TrainConfig, local: TrainConfig, machine: Machine) -> list[str]:
    where = f"{machine.gpus} x {machine.gpu_name}" if machine.gpus else f"{machine.cpus} CPUs, no GPU"
    world = asked.world
    first = (
        f"this machine has {where}: {world.nodes} nodes x {world.processes_per_node} processes become "
        f"{local.world.size} processes here, with the same global batch of {local.training.global_batch_size}"
    )
    notes = [first]
    if local.training.precision != asked.training.precision:
        notes.append(f"precision {local.training.precision}, which this machine computes best")
    return notes
