"""Evaluations of one start of a run, and the scores they gave."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from phitune_trainer.engine.world import World
from phitune_trainer.evaluate.evaluation import Embed, HeldOut, find_baseline, predict, write_evaluation
from phitune_trainer.evaluate.scores import score
from phitune_trainer.evaluate.weights import weights_digest
from phitune_trainer.model import Phi3V
from phitune_trainer.run_layout import IncarnationFolder, RunLayout


class Evaluator:
    """Scores the model whenever it is asked to; `baseline` is the base model's score, once known.

    `parameters`: those that the run trains; all others are the same in every start of it. `embed`: what
    `predict` calls so, by the steps behind the weights.
    """

    def __init__(
        self,
        model: Phi3V,
        parameters: Mapping[str, torch.nn.Parameter],
        held_out: HeldOut,
        world: World,
        layout: RunLayout,
        folder: IncarnationFolder,
        *,
        embed: Callable[[int], Embed] | None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._model = model
        self._parameters = parameters
        self._held_out = held_out
        self._world = world
        self._layout = layout
        self._folder = folder
        self._embed = embed
        self._on_progress = on_progress
        self.baseline = find_baseline(layout)

    def evaluate(self, step: int, *, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """metrics.json of the weights after `step` steps; None if a rank was asked to stop meanwhile.

        What this or an earlier start has answered with the same weights is not asked again. The score of
        step 0 becomes the baseline.
        """
        asked = self._held_out.asked(weights_digest(self._parameters, self._world))
        folder = self._folder.evaluation(step)
        predictions = predict(
            self._model,
            self._held_out,
            self._world,
            folder,
            asked,
            others=[start.evaluation(step) for start in self._earlier_starts()],
            embed=None if self._embed is None else self._embed(step),
            should_stop=should_stop,
            on_progress=self._on_progress,
        )
        if predictions is None:
            return None

        def write() -> dict[str, Any]:
            scores = score(self._held_out.metric, predictions)
            baseline = scores.main.value if step == 0 else self.baseline
            return write_evaluation(folder, predictions, scores, asked, step=step, baseline=baseline)

        written = self._world.from_first(write)
        self.baseline = written["baseline"]
        return written

    def _earlier_starts(self) -> list[IncarnationFolder]:
        numbers = self._layout.incarnation_numbers()
        return [self._layout.incarnation(number) for number in numbers if number < self._folder.number]
