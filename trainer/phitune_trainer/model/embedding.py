"""Embeddings of models whose weights are always loaded."""

import torch
from torch import nn


def empty_embedding(rows: int, width: int) -> nn.Embedding:
    """An embedding whose weights are to be loaded.

    Unlike the class itself it draws no random numbers, which on the meta device imports half of PyTorch.
    """
    made: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        torch.zeros(rows, width), freeze=False
    )
    return made
