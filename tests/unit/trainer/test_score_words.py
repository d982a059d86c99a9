"""What people read of a score."""

from typing import Any

from phitune_trainer.score_words import detail_words, score_words

SCORES: dict[str, Any] = {
    "metric": "anls",
    "value": 0.82463,
    "low": 0.8011,
    "high": 0.8459,
    "samples": 200,
    "baseline": 0.01304,
    "step": 400,
}


def test_a_score_is_said_with_its_interval_and_what_was_before() -> None:
    assert score_words(SCORES) == "anls 0.8246 (0.801 to 0.846), 0.013 before, of 200 samples"


def test_of_the_base_model_nothing_is_said_of_before() -> None:
    for change in ({"step": 0}, {"baseline": None}):
        assert score_words({**SCORES, **change}) == "anls 0.8246 (0.801 to 0.846), of 200 samples"


def test_other_scores_and_missing_ones_have_a_line_each() -> None:
    detail = {"value": 0.9, "low": 0.85, "high": 0.95}
    metrics = {**SCORES, "details": {"anlsStandard": detail}, "notes": ["auroc is not defined: no"]}
    assert detail_words(metrics) == ["anlsStandard 0.9000 (0.850 to 0.950)", "auroc is not defined: no"]
