"""Pictures of samples that are scored, in the room for what a frozen vision part has made of pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.jobs import merged
from harness.seen_pictures import run_counting_pictures
from phitune_trainer import kept_pictures
from phitune_trainer.build import scored_are_kept_from
from phitune_trainer.run_layout import RunLayout

torch.set_num_threads(1)

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}


@pytest.mark.slow
def test_held_out_pictures_are_embedded_once_however_often_they_are_scored_and_no_answer_changes(
    tmp_path: Path, make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of 18 pictures; four that are held out, scored before, in the middle and at the end."""
    memory = tmp_path / "memory"
    answers, seen = [], []
    for uid in ("00000001", "00000002"):
        monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", memory)
        config = make_config(
            **LORA,
            run={"uid": uid},
            data={"eval": "eval.jsonl"},
            training={"maxSteps": 2},
            evaluation={"enabled": True, "baseline": True, "everySteps": 1},
        )
        seen += [sum(times) for times in in_ranks(1, run_counting_pictures(config))]
        scored = [RunLayout(config.run_dir).incarnation(1).evaluation(step) for step in range(3)]
        answers.append([(folder / "predictions.jsonl").read_text() for folder in scored])
        memory.mkdir(exist_ok=True)
    assert answers[0] == answers[1]
    assert seen == [18 + 3 * 4, 18 + 4]


@pytest.mark.slow
def test_a_scoring_before_three_epochs_keeps_no_picture_unless_there_are_more_scorings(
    tmp_path: Path, make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four held-out ones are trained on, too: where the first scoring keeps them, no step sees them."""
    monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", tmp_path)
    firsts = []
    for uid, every in (("00000001", None), ("00000002", 1)):
        config = make_config(
            **LORA,
            run={"uid": uid},
            data={"eval": "eval.jsonl"},
            training={"maxSteps": 6},
            evaluation={"enabled": True, "baseline": True, "everySteps": every},
        )
        [seen] = in_ranks(1, run_counting_pictures(config))
        assert len(seen) == 18
        firsts.append(seen[:4])
    assert min(firsts[0]) >= 2
    assert firsts[1] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "step", "kept_from"),
    [
        pytest.param({}, 0, 3, id="four epochs, two scorings"),
        pytest.param({}, 3, 6, id="continued: three epochs more, one scoring"),
        pytest.param({"evaluation": {"everySteps": 1}}, 0, 0, id="as many scorings as steps"),
        pytest.param({"training": {"maxSteps": 3}}, 0, 0, id="one epoch"),
        pytest.param(
            {"world": {"nodes": 4}, "training": {"microBatchSize": 1}},
            0,
            0,
            id="four pods, one of which has it",
        ),
    ],
)
def test_pictures_that_come_up_more_often_get_the_room_first(
    changes: dict[str, Any], step: int, kept_from: int, make_config: Any
) -> None:
    scored = {"data": {"eval": "eval.jsonl"}, "evaluation": {"enabled": True, "baseline": True}}
    config = make_config(**merged(merged({"training": {"maxSteps": 12}}, scored), changes))
    total = config.training.max_steps
    assert scored_are_kept_from(config, num_samples=36, step=step, total_steps=total) == kept_from
