"""Scores: values computed by hand, and by libraries that know nothing of ours."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from phitune_trainer.data.tasks import TASKS
from phitune_trainer.evaluate import scores
from phitune_trainer.evaluate.bootstrap import percentiles, resample
from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.evaluate.scores import (
    Scores,
    anls_recipe,
    anls_standard,
    compare,
    same_answer,
    sample_score,
    score,
)

TEXTS = st.text(st.sampled_from("abAB. 0"), max_size=8)
_LINES = itertools.count(1)
FEW = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Intervals of 200 draws, but for the tests that look at intervals."""
    if "interval" not in request.node.name:
        monkeypatch.setattr(resample, "__kwdefaults__", {**(resample.__kwdefaults__ or {}), "resamples": 200})


def predicted(text: str, *answers: str, metric: str = "exactMatch", **more: Any) -> Prediction:
    defaults = {"sample": f"eval.jsonl:{next(_LINES)}", "score": sample_score(metric, text, answers)}
    return Prediction(prediction=text, answers=answers, **{**defaults, **more})


def pair(statement: str, *rights: bool) -> list[Prediction]:
    """NLVR2's samples of one statement, answered rightly or not."""
    return [
        predicted("Yes." if right else "No.", "Yes.", metric="accuracy", group=statement) for right in rights
    ]


def meme(log_odds: float, *, hateful: bool) -> Prediction:
    """A sample of Hateful Memes whose "Yes" is exp(log_odds) times as likely as its "No"."""
    answer, said = "Yes." if hateful else "No.", "Yes." if log_odds > 0 else "No."
    likely = {"Yes.": -1.0, "No.": -1.0 - log_odds}
    return predicted(said, answer, metric="accuracy", choice_log_probabilities=likely)


def memes(log_odds: Sequence[float], hateful: Sequence[bool]) -> list[Prediction]:
    return [meme(odds, hateful=is_hateful) for odds, is_hateful in zip(log_odds, hateful, strict=True)]


def plain_edit_distance(left: str, right: str) -> int:
    """Levenshtein's distance as the textbook computes it, row by row."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


@pytest.mark.parametrize(
    ("prediction", "answer", "recipe", "standard"),
    [
        pytest.param("12.50", "12.50", 1.0, 1.0, id="equal"),
        pytest.param("kitten", "sitting", 1 - 3 / 7, 1 - 3 / 7, id="three edits of seven characters"),
        pytest.param("Paris", "paris", 0.8, 1.0, id="the recipe does not lower the case"),
        pytest.param("ab", "ax", 0.0, 0.5, id="a distance of one half: 0 in the recipe, 0.5 in public tools"),
        pytest.param("abcd", "axyz", 0.0, 0.0, id="more than half wrong"),
        pytest.param("Paris.", "Paris", 1.0, 5 / 6, id="the recipe drops a full stop around the prediction"),
        pytest.param("Paris", "Paris.", 5 / 6, 5 / 6, id="but not around the answer"),
        pytest.param("a  b", "a b", 0.75, 1.0, id="public tools join white space"),
        pytest.param("", "word", 0.0, 0.0, id="nothing said"),
        pytest.param("", "", 0.0, 1.0, id="nothing said, as the recipe scores it"),
    ],
)
def test_anls_is_reported_as_the_recipe_and_as_public_tools_compute_it(
    prediction: str, answer: str, recipe: float, standard: float
) -> None:
    assert anls_recipe(prediction, answer) == pytest.approx(recipe)
    assert anls_standard(prediction, answer) == pytest.approx(standard)
    found = score("anls", [predicted(prediction, answer, metric="anls")])
    assert found.main.value == pytest.approx(recipe)
    assert found.details["anlsStandard"].value == pytest.approx(standard)


def test_anls_is_the_mean_over_questions_of_the_best_answer() -> None:
    asked = [
        predicted("sitting", "kitten", "sitting", metric="anls"),  # 1
        predicted("kitten", "sitting", "nothing alike", metric="anls"),  # 4/7
        predicted("unknown", "12.50", metric="anls"),  # 0
    ]
    assert score("anls", asked).main.value == pytest.approx((1 + 4 / 7 + 0) / 3)


@FEW
@given(TEXTS, TEXTS)
def test_anls_follows_from_a_plain_edit_distance(left: str, right: str) -> None:
    for ours, normalize, is_similar in (
        (anls_recipe, lambda text: text, lambda distance: distance < 0.5),
        (anls_standard, lambda text: " ".join(text.lower().split()), lambda distance: distance <= 0.5),
    ):
        said = left.strip().strip(".") if ours is anls_recipe else left
        a, b = normalize(said), normalize(right)
        longer = max(len(a), len(b))
        distance = plain_edit_distance(a, b) / longer if longer else 0.0
        expected = 1 - distance if is_similar(distance) and (said or ours is anls_standard) else 0.0
        assert ours(left, right) == pytest.approx(expected)


@FEW
@given(TEXTS, TEXTS)
def test_anls_is_1_only_for_equal_texts(left: str, right: str) -> None:
    assert (anls_standard(left, right) == 1) == (left.lower().split() == right.lower().split())
    said = left.strip().strip(".")
    assert (anls_recipe(left, right) == 1) == (said == right != "")


@pytest.mark.parametrize(
    ("prediction", "answer", "accuracy", "exact"),
    [
        ("Yes.", "yes", 1.0, 0.0),
        (" Archery ", "Archery", 1.0, 1.0),
        ("No", "Yes.", 0.0, 0.0),
        ("ApplyLipstick", "ApplyEyeMakeup", 0.0, 0.0),
    ],
)
def test_accuracy_looks_at_the_words_and_exact_match_at_the_text(
    prediction: str, answer: str, accuracy: float, exact: float
) -> None:
    assert same_answer(prediction, answer) == accuracy
    assert sample_score("accuracy", prediction, [answer]) == accuracy
    assert sample_score("exactMatch", prediction, [answer]) == exact


def test_consistency_counts_statements_all_of_whose_samples_are_right() -> None:
    answered = [
        *pair("a", True, True, True, False),
        *pair("b", True, True),
        *pair("c", True),
        *pair("d", False),
    ]
    found = score("accuracy", answered)
    assert found.main.value == 6 / 8
    assert found.details["consistency"].value == 2 / 4
    assert (found.samples, found.units) == (8, 4)
    assert "auroc" not in found.details


def test_samples_without_a_group_have_no_consistency() -> None:
    assert not score("accuracy", [predicted("Archery", "Archery", metric="accuracy")]).details


def test_auroc_comes_from_probabilities_and_not_from_answers() -> None:
    asked = memes([-1.0, -2.0, -3.0, -4.0], [True, True, False, False])
    found = score("accuracy", asked)
    assert found.main.value == 0.5  # every answer is No
    assert found.details["auroc"].value == 1.0  # and yet the order is perfect


def test_auroc_of_four_samples_by_hand() -> None:
    # Of the 2 x 2 pairs of a hateful and another one: won, won, lost, tied.
    asked = memes([3.0, 1.0, 2.0, 1.0], [True, True, False, False])
    assert score("accuracy", asked).details["auroc"].value == (1 + 1 + 0 + 0.5) / 4


@FEW
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30), st.floats(0.1, 3))
def test_auroc_is_that_of_scikit_learn_and_the_same_for_any_rising_scale(
    rows: list[tuple[int, bool]], factor: float
) -> None:
    odds, hateful = [float(odd) for odd, _ in rows], [is_hateful for _, is_hateful in rows]
    found = score("accuracy", memes(odds, hateful))
    if len(set(hateful)) == 1:
        assert "auroc" not in found.details
        return
    assert found.details["auroc"].value == pytest.approx(roc_auc_score(hateful, odds))
    stretched = [math.copysign(abs(odd) ** factor, odd) for odd in odds]
    assert score("accuracy", memes(stretched, hateful)).details["auroc"] == found.details["auroc"]


@pytest.mark.parametrize(("hateful", "which"), [(True, "all of the 3"), (False, "none of the 3")])
def test_auroc_of_one_class_is_said_to_be_undefined_and_json_stays_json(hateful: bool, which: str) -> None:
    found = score("accuracy", memes([0.1, 0.2, 0.3], [hateful] * 3))
    assert "auroc" not in found.details
    assert found.notes == (f"auroc is not defined: {which} right answers is 'Yes.'",)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["notes"] == list(found.notes)


def test_auroc_of_probabilities_that_are_not_numbers_is_said_to_be_undefined() -> None:
    asked = [*memes([0.5], [True]), predicted("", "No.", metric="accuracy")]
    assert score("accuracy", asked).notes == (
        "auroc is not defined: 1 of 2 samples have no finite probabilities",
    )


def test_auroc_interval_leaves_out_draws_of_one_class() -> None:
    found = score("accuracy", memes([1.0, 2.0, 3.0], [True, False, True])).details["auroc"]
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_no_predictions_are_no_score() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        score("anls", [])


def right_or_wrong(values: Sequence[bool], pages: Sequence[int] | None = None) -> Scores:
    pages = range(len(values)) if pages is None else pages
    return score(
        "exactMatch",
        [
            predicted("a" if value else "b", "a", pictures=(f"{page}.png",))
            for value, page in zip(values, pages, strict=True)
        ],
    )


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).random(120) < 0.7
    found = right_or_wrong(list(values)).main
    theirs = stats.bootstrap(
        (values.astype(float),), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.012)
    assert found.high == pytest.approx(theirs.high, abs=0.012)


def test_the_interval_of_questions_about_the_same_pages_is_that_of_the_pages() -> None:
    pages = np.random.default_rng(5).random(60) < 0.6
    alone = right_or_wrong(list(pages)).main
    together = right_or_wrong(list(np.repeat(pages, 4)), list(np.repeat(range(60), 4)))
    assert (together.samples, together.units) == (240, 60)
    assert together.main == alone
    apart = right_or_wrong(list(np.repeat(pages, 4))).main
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)


def test_the_interval_is_the_same_for_the_same_samples() -> None:
    values = list(np.random.default_rng(7).random(50) < 0.5)
    assert right_or_wrong(values) == right_or_wrong(values)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "__kwdefaults__", {**(resample.__kwdefaults__ or {}), "resamples": 200})
    generator = np.random.default_rng(11)
    found = [right_or_wrong(list(generator.random(80) < 0.7)).main for _ in range(100)]
    assert 87 <= sum(one.low <= 0.7 <= one.high for one in found) <= 100


@FEW
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
def test_every_score_lies_in_its_interval_between_0_and_1(rows: list[tuple[bool, int]]) -> None:
    found = right_or_wrong([value for value, _ in rows], [page for _, page in rows])
    assert 0 <= found.main.low <= found.main.value <= found.main.high <= 1
    assert found.main.value == pytest.approx(sum(value for value, _ in rows) / len(rows))


def test_draws_on_which_a_score_is_undefined_are_left_out() -> None:
    assert percentiles(np.array([math.nan, 0.5, math.nan, 0.5]), 0.5) == (0.5, 0.5)
    assert percentiles(np.array([math.nan]), 0.5) == (0.5, 0.5)


def numbered(rights: Sequence[bool]) -> list[Prediction]:
    return [
        predicted("a" if right else "b", "a", sample=f"eval.jsonl:{number}")
        for number, right in enumerate(rights, start=1)
    ]


def test_two_models_are_compared_sample_by_sample() -> None:
    before = numbered([True] * 50 + [False] * 50)
    after = numbered([True] * 50 + [True] * 10 + [False] * 40)
    found = compare("exactMatch", before, after)
    assert (found.before.main.value, found.after.main.value) == (0.5, 0.6)
    difference = found.differences["exactMatch"]
    assert difference.value == pytest.approx(0.1)
    assert 0 < difference.low < 0.1 < difference.high  # though the two intervals overlap
    assert found.after.main.low < found.before.main.high
    assert [old.sample for old, _ in found.changed] == [f"eval.jsonl:{number}" for number in range(51, 61)]


def test_a_model_does_not_differ_from_itself() -> None:
    found = compare("exactMatch", numbered([True, False]), numbered([True, False]))
    difference = found.differences["exactMatch"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert not found.changed


def test_different_samples_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different samples"):
        compare("exactMatch", numbered([True]), numbered([True, True]))


def test_a_prediction_survives_its_line_in_the_file() -> None:
    asked = meme(0.25, hateful=True)
    for one in (asked, *pair("a", True), predicted("ü\n", "a", "b", pictures=("1.png", "2.png"))):
        assert Prediction.from_row(json.loads(json.dumps(one.to_row()))) == one


def test_every_metric_has_its_function() -> None:
    assert {task.metric for task in TASKS.values()} == set(scores.PER_SAMPLE)
