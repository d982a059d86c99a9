"""Builder of a run's folder as the trainer leaves it: a test shows only what it is about."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.run_layout import RunLayout


class RunFolder:
    """A run below a volume: `start` adds a start, `score` an evaluation."""

    def __init__(self, volume: Path, config_text: str) -> None:
        self.layout = RunLayout(volume / "runs" / "local" / "colors" / "0001")
        self.layout.path.mkdir(parents=True)
        self.layout.config.write_text(config_text, encoding="utf-8")

    def start(
        self,
        number: int,
        steps: Iterable[int],
        *,
        origin: tuple[int, int] | None = None,
        host: str = "node-a",
        **fields: Any,
    ) -> None:
        """A start that took these steps; `origin` is the start and the step that it continued from."""
        folder = self.layout.incarnation(number)
        folder.path.mkdir(parents=True)
        came_from = None if origin is None else {"incarnation": origin[0], "step": origin[1]}
        record = {"version": 1, "attempt": 1, "host": host, "startedAt": "2026-01-02T03:04:05+00:00"}
        folder.start.write_text(json.dumps({**record, "from": came_from}))
        folder.metrics.write_text(
            "".join(json.dumps(self._row(step, number, fields)) + "\n" for step in steps)
        )

    def score(
        self,
        number: int,
        step: int,
        value: float,
        predictions: Sequence[Prediction] = (),
        **fields: Any,
    ) -> None:
        """An evaluation of one start."""
        folder = self.layout.incarnation(number).evaluation(step)
        folder.mkdir(parents=True)
        metrics = {"version": 1, "step": step, "metric": "exactMatch", "value": value, "low": value - 0.1}
        rest = {
            "high": value + 0.1,
            "samples": len(predictions),
            "baseline": None,
            "details": {},
            "notes": [],
        }
        (folder / "metrics.json").write_text(json.dumps({**metrics, **rest, **fields}))
        lines = [json.dumps(one.to_row()) + "\n" for one in predictions]
        (folder / "predictions.jsonl").write_text("".join(lines))

    def result(self, **fields: Any) -> Mapping[str, Any]:
        """result.json of a run that is complete."""
        result = {"version": 1, "steps": 4, "finishedAt": "2026-01-02T03:14:05Z", "artifacts": {}, **fields}
        self.layout.result.write_text(json.dumps(result))
        return result

    def _row(self, step: int, number: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        row = {
            "step": step,
            "time": 1.8e9 + step,
            "seconds": 0.5,
            "loss": number + 1 / (step + 1),
            "gradNorm": 0.5,
        }
        speeds = {"imagesPerSecond": 10.0, "tokensPerSecond": 1000.0, "mfu": None, "memoryBytes": 2**30}
        return {**row, "learningRate": 1e-3, **speeds, **fields}


def answer(number: int, *, prediction: str = "red", score: float = 1.0, **fields: Any) -> Prediction:
    """One answer about sample `number`."""
    known: dict[str, Any] = {"question": "Which colour?", "answers": ("red",), **fields}
    return Prediction(sample=f"eval.jsonl:{number}", prediction=prediction, score=score, **known)
