"""What the model answered to one held-out sample, and its line in predictions.jsonl."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answer of the model."""

    sample: str
    """Where the sample comes from, as "file:line"."""
    question: str = ""
    """What was asked, without the pictures."""
    prediction: str
    """What the model answered, as text."""
    answers: tuple[str, ...]
    """The answers that count as right."""
    score: float
    """Of this sample by the task's metric, from 0 to 1."""
    pictures: tuple[str, ...] = ()
    """Names of the sample's pictures."""
    group: str = ""
    """What ties samples together that count as one, such as NLVR2's statement; "" for none."""
    choice_log_probabilities: Mapping[str, float] | None = None
    """Log probability of each possible answer, the positive one first; None where it was not asked for."""

    @property
    def unit(self) -> tuple[str, ...]:
        """What this sample shares with those that it is not independent of: its group, else its pictures.

        A sample with neither stands for itself.
        """
        if self.group:
            return ("group", self.group)
        return ("pictures", *self.pictures) if self.pictures else ("sample", self.sample)

    def to_row(self) -> dict[str, Any]:
        """The line of predictions.jsonl; what is not used is left out."""
        row: dict[str, Any] = {
            "sample": self.sample,
            "question": self.question,
            "prediction": self.prediction,
            "answers": list(self.answers),
            "score": self.score,
        }
        if self.pictures:
            row["pictures"] = list(self.pictures)
        if self.group:
            row["group"] = self.group
        if self.choice_log_probabilities is not None:
            row["choiceLogProbabilities"] = dict(self.choice_log_probabilities)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Prediction":
        """What `to_row` gave. KeyError, TypeError or ValueError where it is something else."""
        if not isinstance(row, Mapping):
            raise TypeError(f"a map was expected, got {type(row).__name__}")
        choices = row.get("choiceLogProbabilities")
        if not isinstance(choices, Mapping | None):
            raise TypeError(f"choiceLogProbabilities: a map was expected, got {type(choices).__name__}")
        return cls(
            sample=str(row["sample"]),
            question=str(row.get("question", "")),
            prediction=str(row["prediction"]),
            answers=tuple(str(answer) for answer in row["answers"]),
            score=float(row["score"]),
            pictures=tuple(str(name) for name in row.get("pictures", ())),
            group=str(row.get("group", "")),
            choice_log_probabilities=None
            if choices is None
            else {str(name): float(value) for name, value in choices.items()},
        )
