"""The state of a model while it answers rather than learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phitune_trainer.model.phi3v import Phi3V


@contextmanager
def answering(model: Phi3V) -> Iterator[None]:
    """Within this block there is no dropout, and nothing is kept for gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
