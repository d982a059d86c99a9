"""What a node's labels say about its GPUs, whoever wrote them. Pure.

GPU feature discovery's go first, where they are: they are read from the driver. Else those of the cloud:
GKE's accelerator, the type of the machine on EKS and AKS, Karpenter's and EKS' name of the GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from phitune_operator import names
from phitune_operator.gpu_names import MIG, SHARED, gpu_of_machine, known_gpu, slice_of
from phitune_trainer.memory import Gpu

MAJOR: Final = "nvidia.com/gpu.compute.major"
MINOR: Final = "nvidia.com/gpu.compute.minor"
MEMORY: Final = "nvidia.com/gpu.memory"
"""Of one GPU, or of one slice where all are sliced alike, in MiB."""
REPLICAS: Final = "nvidia.com/gpu.replicas"
DRIVERS: Final = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
"""Of newer and of older GPU feature discovery."""
GKE: Final = "cloud.google.com/gke-accelerator"
GKE_SLICE: Final = "cloud.google.com/gke-gpu-partition-size"
GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"
GKE_CLIENTS: Final = "cloud.google.com/gke-max-shared-clients-per-gpu"
MACHINE: Final = "node.kubernetes.io/instance-type"
AWS: Final = ("karpenter.k8s.aws/instance-gpu-", "eks.amazonaws.com/instance-gpu-")
"""Karpenter and EKS' own: with name, memory in MiB, count behind it."""
UNLABELLED: Final = f"!{names.LABEL_GPU_PRODUCT},!{GKE}"
"""Selects the nodes of which nothing tells the product."""

SLICES: Final = "nvidia.com/mig-"
"""Begins the resource of a slice, and its labels, where GPUs are sliced in different ways."""
RENAMED: Final = ".shared"
"""Ends the resource of GPUs that are shared under a name of their own."""
MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The GPUs behind one resource of a node, as far as labels tell."""

    gpu: Gpu
    """Its name is the product, empty if nothing tells it; the memory is that of one GPU, slice or share."""
    selector: str
    """Selects nodes with the same, as `kubectl get nodes -l` reads it."""


def is_gpu_resource(name: str) -> bool:
    """Whether pods that ask for this resource get a GPU of NVIDIA, a slice or a share of one."""
    return name.removesuffix(RENAMED) == names.GPU_RESOURCE or name.startswith(SLICES)


def read_labels(labels: Mapping[str, str], resource: str = names.GPU_RESOURCE) -> Labelled:
    """Read the labels of a node about one of its resources."""
    if resource.startswith(SLICES):
        return _slice(labels, resource)
    found = _by_discovery(labels) or _by_gke(labels) or _by_machine(labels) or _by_aws(labels)
    if found is None:
        return Labelled(gpu=Gpu("", _mib(labels.get(MEMORY)), _capability(labels)), selector=UNLABELLED)
    if resource.endswith(RENAMED):
        return replace(found, gpu=_shared(found.gpu, labels.get(REPLICAS)))
    return found


def driver_of(labels: Mapping[str, str]) -> int | None:
    """Major version of the NVIDIA driver; None if nothing tells it."""
    return next((int(labels[key]) for key in DRIVERS if labels.get(key, "").isdecimal()), None)


def _by_discovery(labels: Mapping[str, str]) -> Labelled | None:
    product = labels.get(names.LABEL_GPU_PRODUCT)
    if not product:
        return None
    card, _, profile = product.removesuffix(SHARED).partition(MIG)
    known = known_gpu(card) or Gpu(product)
    known = slice_of(known, product, profile) if profile else known
    gpu = Gpu(
        product,
        _mib(labels.get(MEMORY)) or known.memory,
        _capability(labels) or known.compute_capability,
    )
    if product.endswith(SHARED):
        gpu = _shared(gpu, labels.get(REPLICAS))
    return Labelled(gpu=gpu, selector=f"{names.LABEL_GPU_PRODUCT}={product}")


def _by_gke(labels: Mapping[str, str]) -> Labelled | None:
    accelerator = labels.get(GKE)
    if not accelerator:
        return None
    gpu = replace(known_gpu(accelerator) or Gpu(accelerator), name=accelerator)
    terms = [f"{GKE}={accelerator}"]
    profile, sharing = labels.get(GKE_SLICE), labels.get(GKE_SHARING)
    terms.append(f"{GKE_SLICE}={profile}" if profile else f"!{GKE_SLICE}")
    terms.append(f"{GKE_SHARING}={sharing}" if sharing else f"!{GKE_SHARING}")
    if profile:
        gpu = slice_of(gpu, f"{accelerator}{MIG}{profile}", profile)
    if sharing:
        gpu = _shared(gpu, labels.get(GKE_CLIENTS))
    return Labelled(gpu=gpu, selector=",".join(terms))


def _by_machine(labels: Mapping[str, str]) -> Labelled | None:
    machine = labels.get(MACHINE, "")
    gpu = gpu_of_machine(machine)
    return Labelled(gpu=gpu, selector=f"{MACHINE}={machine}") if gpu else None


def _by_aws(labels: Mapping[str, str]) -> Labelled | None:
    for prefix in AWS:
        if name := labels.get(f"{prefix}name"):
            known = known_gpu(name) or Gpu(name)
            memory = known.memory or _mib(labels.get(f"{prefix}memory"))
            gpu = replace(known, name=name.upper(), memory=memory)
            return Labelled(gpu=gpu, selector=f"{prefix}name={name}")
    return None


def _slice(labels: Mapping[str, str], resource: str) -> Labelled:
    """A slice where GPUs are sliced in different ways: it has labels of its own, named like the resource."""
    whole = _by_discovery(labels)
    profile = resource.removesuffix(RENAMED).removeprefix(SLICES)
    of_card = whole.gpu if whole else Gpu("")
    product = labels.get(f"{SLICES}{profile}.product") or f"{of_card.name}{MIG}{profile}"
    gpu = slice_of(of_card, product, profile)
    gpu = replace(gpu, memory=_mib(labels.get(f"{SLICES}{profile}.memory")) or gpu.memory)
    if resource.endswith(RENAMED) or product.endswith(SHARED):
        gpu = _shared(gpu, labels.get(f"{SLICES}{profile}.replicas"))
    return Labelled(gpu=gpu, selector=whole.selector if whole else UNLABELLED)


def _shared(gpu: Gpu, clients: str | None) -> Gpu:
    """One pod's part of a GPU that several use in turn: they share its memory."""
    parts = int(clients) if clients and clients.isdecimal() and int(clients) else 1
    return replace(
        gpu,
        name=gpu.name if gpu.name.endswith(SHARED) else f"{gpu.name}{SHARED}",
        memory=gpu.memory // parts if gpu.memory else None,
    )


def _capability(labels: Mapping[str, str]) -> tuple[int, int] | None:
    major, minor = labels.get(MAJOR, ""), labels.get(MINOR, "")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _mib(text: str | None) -> int | None:
    return int(text) * MIB if text and text.isdecimal() else None
