"""Which answers a report shows: the best, and the worst, of those by their own scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from phitune_trainer.evaluate.prediction import Prediction

SHOWN: Final = 12
"""Of each kind."""


@dataclass(frozen=True)
class Shown:
    """An answer, and that of the weights before training to the same sample if it is known."""

    after: Prediction
    before: Prediction | None

    @property
    def gain(self) -> float:
        """How much better the answer became."""
        return 0.0 if self.before is None else self.after.score - self.before.score


def best_and_worst(
    after: Sequence[Prediction], before: Mapping[str, Prediction], count: int = SHOWN
) -> tuple[list[Shown], list[Shown]]:
    """The highest scores, best first, and the lowest, worst first; no sample is in both.

    What is wholly right is none of the worst, and what is wholly wrong none of the best. Among equal scores
    those come first that changed the most, then those of the data's order.
    """
    shown = [Shown(one, before.get(one.sample)) for one in after]
    good = [one for one in shown if one.after.score > 0]
    bad = [one for one in shown if one.after.score < 1]
    best = sorted(good, key=lambda one: (-one.after.score, -one.gain))
    worst = sorted(bad, key=lambda one: (one.after.score, one.gain))
    num_worst = min(count, max(len(shown) // 2, len(shown) - len(best)))
    chosen = worst[:num_worst]
    taken = {id(one) for one in chosen}
    return [one for one in best if id(one) not in taken][:count], chosen
