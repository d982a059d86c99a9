"""The engine holds gradients and optimizer state and moves the weights; the loop does not know which it is.

Both engines promise the same numbers: the gradient of the sum of what all ranks pass to `backward`, clipped
to MAX_GRAD_NORM, applied by AdamW. They differ in where optimizer state lies: `zero2` spreads it over the
ranks, `data_parallel` keeps all of it on every rank.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

MAX_GRAD_NORM = 1.0
ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-7
ADAMW: Final[dict[str, Any]] = {"betas": ADAM_BETAS, "eps": ADAM_EPS, "fused": True}
"""torch's AdamW, in both engines. Fused: one pass over the state, on GPUs and CPUs, nothing to compile."""
LEAST_SCALE: Final = 1.0
"""Of the loss in fp16: a gradient that overflows even when nothing is scaled up is finite at no scale."""
STATE_KINDS = ("weight", "exp_avg", "exp_avg_sq")
"""What is saved of a parameter: its value in float32, and Adam's two averages."""


@dataclass(frozen=True)
class Fragment:
    """A stretch of one parameter's state, [start, start + values.numel()) of the flattened parameter."""

    kind: str
    name: str
    start: int
    values: torch.Tensor
    """float32, one dimension."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step, over all ranks."""

    loss: float
    grad_norm: float
    """Before clipping; not finite where the weights stayed as they were."""
    has_diverged: bool
    """The loss or the gradient was not finite, and no smaller scale of the loss would heal that."""
    loss_scale: float
    """From now on; LEAST_SCALE where the loss is not scaled."""


ReadState = Callable[[str, str, int, int], torch.Tensor]
"""(kind, name, start, end) -> that stretch of the saved state, whichever ranks saved it."""


class Engine(Protocol):
    """All methods are collective: every rank calls them in the same order."""

    summary: str
    """What it is, in words."""
    steps_ahead: int
    """How many more steps may be begun before the outcome of one is asked for: where it has diverged, they
    leave the weights alone, too."""

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by name, in one order on every rank."""

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradient of `loss`, a scalar: this rank's share of the global loss.

        `is_last`: no other call follows before `step`.
        """

    def step(self, learning_rate: float, loss: torch.Tensor) -> Callable[[], Outcome]:
        """Clip, move the weights, forget the gradients; what waits for the outcome. `loss`: over all ranks.

        Where loss or norm are not finite, the weights stay as they are; in fp16 the norm alone counts, and
        the scale of the loss is halved.
        """

    def fragments(self) -> Iterator[Fragment]:
        """This rank's part of the state; together the ranks yield everything exactly once."""

    def scalars(self) -> dict[str, float]:
        """What beside the fragments decides the next step's numbers, by name; the same on every rank.

        `adamStep`: the steps that AdamW took, which in fp16 are fewer than the run's. In fp16 also
        `lossScale`, `goodSteps` (steps since the scale last changed or overflowed) and, with ZeRO-2,
        `hysteresis` (overflows until the scale is lowered).
        """

    def restore(self, read: ReadState, scalars: dict[str, float]) -> None:
        """Take over weights and optimizer state as `fragments` and `scalars` gave them."""


def decay_groups(parameters: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: matrices decay; norms, biases and other vectors do not."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
