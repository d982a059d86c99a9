"""Whether a step may move the weights: decided on the device, so that the host need not wait to learn it."""

from typing import Final

import torch
from torch import Tensor

from phitune_trainer.engine import LEAST_SCALE

FIRST_SCALE: Final = 65536.0
"""Of the loss in fp16: gradients too small for it are lifted into its range."""
STEPS_TO_DOUBLE: Final = 2000
"""Without an overflow; then the scale is tried twice as large."""


class Guard:
    """Holds back each step whose numbers are not finite, and every one after it unless that may heal.

    In fp16 it scales the loss: an overflow halves the scale, and may heal until that is LEAST_SCALE. Else the
    scale is LEAST_SCALE from the beginning. Scales are powers of two, so that no bit of a gradient is lost.
    """

    def __init__(self, device: torch.device, *, scales: bool) -> None:
        self.scales = scales
        self.loss_scale = torch.tensor(FIRST_SCALE if scales else LEAST_SCALE, device=device)
        self.good_steps = torch.tensor(0.0, device=device)
        """Steps since the scale last changed or overflowed."""
        self.has_diverged = torch.tensor(0.0, device=device)
        """1 once a step was not finite and no smaller scale would heal that."""

    def restore(self, loss_scale: float, good_steps: float) -> None:
        """Go on from these."""
        self.loss_scale = torch.full_like(self.loss_scale, loss_scale)
        self.good_steps = torch.full_like(self.good_steps, good_steps)

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1 where the weights must stay as they are, else 0: what torch's AdamW calls `found_inf`.

        `loss`: the step's, over all ranks; `norm`: of its gradient, unscaled. What was read of this before
        stays as it was.
        """
        is_bad = norm.isfinite().logical_not()
        if not self.scales:  # in fp16 the loss is as the gradient is
            is_bad = is_bad | loss.isfinite().logical_not()
        cannot_heal = is_bad & (self.loss_scale <= LEAST_SCALE)
        self.has_diverged = torch.maximum(self.has_diverged, cannot_heal.float())
        if self.scales:
            self._follow(is_bad)
        return torch.maximum(self.has_diverged, is_bad.float())

    def _follow(self, is_bad: Tensor) -> None:
        good_steps = self.good_steps + 1
        doubled = 2 * self.loss_scale
        is_time = (good_steps >= STEPS_TO_DOUBLE) & doubled.isfinite()
        self.loss_scale = torch.where(
            is_bad, self.loss_scale / 2, torch.where(is_time, doubled, self.loss_scale)
        )
        self.good_steps = torch.where(is_bad | is_time, torch.zeros_like(good_steps), good_steps)
