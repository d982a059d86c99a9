"""How answers are scored: each one by itself, and all of them together with an interval.

Metrics by their names in metrics.json:

- `anls`: similarity to the nearest answer, 0 from half wrong on, as the published recipe computes it: upper
  and lower case differ, white space and full stops around the prediction do not count, and a distance of
  exactly one half scores 0.
- `anlsStandard`: the same as the public tools compute it: case and runs of white space do not count, and a
  distance of exactly one half scores 0.5.
- `accuracy`: right or wrong; case, and white space and full stops around the text, do not count.
- `consistency`: share of the groups (NLVR2's statements) all of whose samples are right.
- `auroc`: how well the probability of the first choice tells apart what is and what is not.
- `exactMatch`: right or wrong; white space around the text does not count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rapidfuzz.distance import Levenshtein

from phitune_trainer.evaluate.bootstrap import Statistic, Weights, percentiles, resample
from phitune_trainer.evaluate.prediction import Prediction

ANLS_THRESHOLD: Final = 0.5
"""A normalised distance of more than this is no similarity at all."""


@dataclass(frozen=True)
class Estimate:
    """A score and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What some predictions are worth."""

    metric: str
    """The main score's name."""
    main: Estimate
    samples: int
    units: int
    """Independent ones among the samples: pages, statements, or the samples themselves."""
    details: Mapping[str, Estimate]
    """Other scores of the same predictions, by name."""
    notes: tuple[str, ...]
    """Why a score that belongs here is missing, each a sentence."""

    def to_json(self) -> dict[str, Any]:
        """As metrics.json says it; `version` and what the predictions are of is not part of it."""
        return {
            "metric": self.metric,
            "value": self.main.value,
            "low": self.main.low,
            "high": self.main.high,
            "samples": self.samples,
            "units": self.units,
            "details": {
                name: {"value": found.value, "low": found.low, "high": found.high}
                for name, found in self.details.items()
            },
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same samples."""

    metric: str
    before: Scores
    after: Scores
    differences: Mapping[str, Estimate]
    """After minus before, by the score's name, the main one first. Paired: both are scored on each draw."""
    changed: tuple[tuple[Prediction, Prediction], ...]
    """Samples (before, after) whose score differs."""


def score(metric: str, predictions: Sequence[Prediction]) -> Scores:
    """Score all predictions together, each sample with the same weight. ValueError if there are none."""
    statistics, notes = _statistics(metric, predictions)
    return _scores(metric, predictions, statistics, notes)


def compare(metric: str, before: Sequence[Prediction], after: Sequence[Prediction]) -> Comparison:
    """Score two models' predictions of the same samples, and how far apart they are.

    ValueError if the samples are not the same ones in the same order, or none.
    """
    if [one.sample for one in before] != [one.sample for one in after]:
        raise ValueError("the predictions to compare are of different samples")
    olds, old_notes = _statistics(metric, before)
    news, new_notes = _statistics(metric, after)
    both = {name: _difference(olds[name], news[name]) for name in olds if name in news}
    return Comparison(
        metric=metric,
        before=_scores(metric, before, olds, old_notes),
        after=_scores(metric, after, news, new_notes),
        differences=_estimates(both, before),
        changed=tuple((old, new) for old, new in zip(before, after, strict=True) if old.score != new.score),
    )


def sample_score(metric: str, prediction: str, answers: Sequence[str]) -> float:
    """The score of one answer, from 0 to 1: that of the accepted answer that it fits best."""
    return max(PER_SAMPLE[metric](prediction, answer) for answer in answers)


def anls_recipe(prediction: str, answer: str) -> float:
    """1 - NL where NL < 0.5, else 0; NL: edits to turn one into the other / length of the longer one."""
    said = prediction.strip().strip(".")
    distance = _normalized_distance(said, answer)
    return 1 - distance if said and distance < ANLS_THRESHOLD else 0.0


def anls_standard(prediction: str, answer: str) -> float:
    """1 - NL where NL <= 0.5, else 0, of lower-cased texts with single spaces."""
    distance = _normalized_distance(*(" ".join(text.lower().split()) for text in (prediction, answer)))
    return 1 - distance if distance <= ANLS_THRESHOLD else 0.0


def same_answer(prediction: str, answer: str) -> float:
    """1 if both are the same word or words."""
    return float(plain(prediction) == plain(answer))


def exact_match(prediction: str, answer: str) -> float:
    """1 if both are the same text."""
    return float(prediction.strip() == answer.strip())


def plain(text: str) -> str:
    """The text without case, and without white space and full stops around it."""
    return text.strip().strip(".").lower()


PER_SAMPLE: Final[Mapping[str, Callable[[str, str], float]]] = {
    "anls": anls_recipe,
    "accuracy": same_answer,
    "exactMatch": exact_match,
}


def _normalized_distance(left: str, right: str) -> float:
    longer = max(len(left), len(right))
    return Levenshtein.distance(left, right) / longer if longer else 0.0


def _scores(
    metric: str, predictions: Sequence[Prediction], statistics: Mapping[str, Statistic], notes: Sequence[str]
) -> Scores:
    found = _estimates(statistics, predictions)
    main = found.pop(metric)
    return Scores(
        metric=metric,
        main=main,
        samples=len(predictions),
        units=len({one.unit for one in predictions}),
        details=found,
        notes=tuple(notes),
    )


def _estimates(statistics: Mapping[str, Statistic], predictions: Sequence[Prediction]) -> dict[str, Estimate]:
    everything = np.ones(len(predictions))
    draws = resample(list(statistics.values()), [one.unit for one in predictions])
    found = {}
    for column, (name, statistic) in enumerate(statistics.items()):
        value = statistic(everything)
        found[name] = Estimate(value, *percentiles(draws[:, column], value))
    return found


def _difference(before: Statistic, after: Statistic) -> Statistic:
    return lambda weights: after(weights) - before(weights)


def _statistics(metric: str, predictions: Sequence[Prediction]) -> tuple[dict[str, Statistic], list[str]]:
    """The scores that belong to a metric, the main one first, and why some cannot be given."""
    if not predictions:
        raise ValueError("there are no predictions to score")
    statistics = {metric: _mean([one.score for one in predictions])}
    notes = []
    if metric == "anls":
        statistics["anlsStandard"] = _mean(
            [max(anls_standard(one.prediction, answer) for answer in one.answers) for one in predictions]
        )
    if any(one.group for one in predictions):
        statistics["consistency"] = _consistency(predictions)
    if any(one.choice_log_probabilities for one in predictions):
        try:
            statistics["auroc"] = _auroc(predictions)
        except _UndefinedError as reason:
            notes.append(f"auroc is not defined: {reason}")
    return statistics, notes


def _mean(values: Sequence[float]) -> Statistic:
    array = np.array(values)
    return lambda weights: float(weights @ array / weights.sum())


def _consistency(predictions: Sequence[Prediction]) -> Statistic:
    """Groups are part of a unit, so all samples of a group have the weight of its first one."""
    members: dict[tuple[str, ...], list[int]] = {}
    for index, one in enumerate(predictions):
        members.setdefault(one.unit if one.group else ("sample", one.sample), []).append(index)
    first = np.array([indices[0] for indices in members.values()])
    is_right = np.array([min(predictions[index].score for index in group) for group in members.values()])
    return lambda weights: float(weights[first] @ is_right / weights[first].sum())


class _UndefinedError(Exception):
    """A score has no value for these predictions; the message says why."""


def _auroc(predictions: Sequence[Prediction]) -> Statistic:
    """The probability that a positive sample ranks above a negative one; a tie counts half.

    Ranked by the log of the first choice's odds against all others. NaN for weights that leave one class out.
    """
    choices = [one.choice_log_probabilities for one in predictions]
    if lacking := sum(known is None for known in choices):
        raise _UndefinedError(f"{lacking} of {len(predictions)} samples have no finite probabilities")
    positive = next(iter(choices[0] or {}))
    is_positive = np.array([plain(one.answers[0]) == plain(positive) for one in predictions])
    if is_positive.all() or not is_positive.any():
        which = "all" if is_positive.all() else "none"
        raise _UndefinedError(f"{which} of the {len(predictions)} right answers is {positive!r}")
    _, rank = np.unique([_log_odds(known or {}, positive) for known in choices], return_inverse=True)
    num_ranks = int(rank.max()) + 1

    def auroc(weights: Weights) -> float:
        positives = np.bincount(rank, weights=weights * is_positive, minlength=num_ranks)
        negatives = np.bincount(rank, weights=weights * ~is_positive, minlength=num_ranks)
        pairs = positives.sum() * negatives.sum()
        if not pairs:
            return math.nan
        below = negatives.cumsum() - negatives / 2
        return float(positives @ below / pairs)

    return auroc


def _log_odds(log_probabilities: Mapping[str, float], positive: str) -> float:
    others = [value for name, value in log_probabilities.items() if name != positive]
    return log_probabilities[positive] - float(np.logaddexp.reduce(others))
