"""Evaluations of one start of a run, and the scores they gave."""

from collections.abc import Callable
from typing import Any

from phitune_trainer.engine.world import World
from phitune_trainer.evaluate.evaluation import HeldOut, predict, write_evaluation
from phitune_trainer.model import Phi3V
from phitune_trainer.run_layout import IncarnationFolder


class Evaluator:
    """Scores the model whenever it is asked to; `baseline` is the base model's score, once known."""

    def __init__(
        self,
        model: Phi3V,
        held_out: HeldOut,
        world: World,
        folder: IncarnationFolder,
        *,
        baseline: float | None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._model = model
        self._held_out = held_out
        self._world = world
        self._folder = folder
        self._on_progress = on_progress
        self.baseline = baseline

    def evaluate(self, step: int, *, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """The score after `step` steps as people are told of it; None if a rank was asked to stop meanwhile.

        The score of step 0 becomes the baseline.
        """
        predictions = predict(
            self._model, self._held_out, self._world, should_stop=should_stop, on_progress=self._on_progress
        )
        if predictions is None:
            return None
        folder = self._folder.evaluation(step)
        written = self._world.from_first(lambda: write_evaluation(folder, predictions, step))
        if step == 0:
            self.baseline = written["value"]
        scores = {name: written[name] for name in ("metric", "value", "samples")}
        return {**scores, "baseline": self.baseline}
