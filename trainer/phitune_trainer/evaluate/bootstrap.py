"""How sure a score is: its 95% interval over other held-out samples that might have been drawn.

The percentile bootstrap: what was measured is drawn again, with replacement, as many units as there are, and
every draw is scored. Samples that share a page or a statement are right or wrong together, so what is drawn
are such units, not samples: an interval over single samples would be too narrow. The same samples always
give the same interval.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 0

Weights = NDArray[np.float64]
"""(N,): how often each of N samples counts; 1 each for what was measured."""

Statistic = Callable[[Weights], float]
"""A score of weighted samples; NaN where it is not defined."""


def resample(
    statistics: Sequence[Statistic],
    units: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = _SEED,
) -> NDArray[np.float64]:
    """(resamples, len(statistics)): each statistic on the same draws. `units` has the unit of each sample."""
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    unit_of = np.array([numbers[unit] for unit in units])
    generator = np.random.Generator(np.random.PCG64(seed))
    found = np.empty((resamples, len(statistics)))
    for row in found:
        drawn = generator.integers(len(numbers), size=len(numbers))
        weights = np.bincount(drawn, minlength=len(numbers))[unit_of].astype(np.float64)
        row[:] = [statistic(weights) for statistic in statistics]
    return found


def percentiles(draws: NDArray[np.float64], value: float) -> tuple[float, float]:
    """The interval that holds 95% of the draws on which the score is defined, and `value` itself.

    A mean of few samples, or rounding in its last digit, may lie outside the draws' percentiles.
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return value, value
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)
