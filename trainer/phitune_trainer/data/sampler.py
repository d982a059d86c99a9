"""Which samples a step takes, and which rank takes which of them: plain functions of numbers.

The samples of a step depend on the seed and the step alone, so a run continues at another world size as if
nothing had happened.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def step_indices(*, seed: int, step: int, num_samples: int, global_batch: int) -> list[int]:
    """Indices of the samples of one step, in order. Steps count from 0.

    Every epoch is a shuffle of its own, without replacement, and the next one follows on it: a step may hold
    the last samples of one epoch and the first of the next.
    """
    start = step * global_batch
    positions = range(start, start + global_batch)
    return [
        int(_order(seed, position // num_samples, num_samples)[position % num_samples])
        for position in positions
    ]


def split(indices: Sequence[int], *, rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """A rank's share of a step, in pieces of at most `micro_batch` samples.

    Every rank gets the same number of pieces; a piece is empty where a rank has run out of samples.
    """
    largest_share = -(-len(indices) // world)
    num_pieces = -(-largest_share // micro_batch)
    share = list(indices[rank::world])
    return [share[piece * micro_batch : (piece + 1) * micro_batch] for piece in range(num_pieces)]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_samples: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # Sorting raw bits rather than `permutation`, whose result may change with the version of np.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_samples)
    return np.argsort(bits, kind="stable")
