"""Telling weights apart: answers of one model are never taken for those of another."""

import hashlib
from collections.abc import Mapping

import torch

from phitune_trainer.engine.world import World


def weights_digest(tensors: Mapping[str, torch.Tensor], world: World) -> str:
    """SHA-256 of all tensors, the same for any number of ranks, which each read a share of them.

    The tensors must be the same on all ranks.
    """
    names = sorted(tensors)
    own = {name: _digest(tensors[name]) for name in names[world.rank :: world.size]}
    known = {name: digest for share in world.gather(own) for name, digest in share.items()}
    return hashlib.sha256("".join(f"{name} {known[name]}\n" for name in names).encode()).hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    kind = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(kind + content.tobytes()).hexdigest()
