"""An evaluation: every sample is answered once, by any number of ranks, however often it was stopped."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.ranks import run_in_ranks
from phitune_trainer.engine.world import World, alone
from phitune_trainer.errors import UserError
from phitune_trainer.evaluate import evaluation
from phitune_trainer.evaluate.evaluation import HeldOut, predict, rounds_of, write_evaluation
from phitune_trainer.evaluate.kept import read_kept, read_metrics, read_predictions
from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.evaluate.scores import score
from phitune_trainer.evaluate.weights import weights_digest
from phitune_trainer.model import Phi3V

CPU = torch.device("cpu")
WEIGHTS = "w" * 64


def after(rounds: int) -> Callable[[], bool]:
    """A wish to stop that comes after so many rounds."""
    asked = itertools.count()
    return lambda: next(asked) >= rounds


def answer(
    model: Phi3V,
    held_out: HeldOut,
    folder: Path,
    *,
    weights: str = WEIGHTS,
    stop_after: int = 1000,
    others: tuple[Path, ...] = (),
) -> Callable[[World], tuple[list[Prediction] | None, list[tuple[int, int]]]]:
    """All predictions, and the progress that was told."""

    def run(world: World) -> tuple[list[Prediction] | None, list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        found = predict(
            model,
            held_out,
            world,
            folder,
            held_out.asked(weights),
            others=others,
            should_stop=after(stop_after),
            on_progress=lambda done, total: told.append((done, total)),
        )
        return found, told

    return run


def by_one(*args: Any, **more: Any) -> tuple[list[Prediction] | None, list[tuple[int, int]]]:
    with alone(CPU) as world:
        return answer(*args, **more)(world)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 17), st.integers(1, 9))
def test_each_sample_is_in_one_batch_of_one_rank_and_all_ranks_take_as_many_rounds(
    num_samples: int, size: int, batch_size: int
) -> None:
    indices = [3 * index for index in range(num_samples)]
    ranks = [rounds_of(indices, rank, size, batch_size) for rank in range(size)]
    assert sorted(index for rounds in ranks for batch in rounds for index in batch) == indices
    assert len({len(rounds) for rounds in ranks}) == 1
    assert all(len(batch) <= batch_size for rounds in ranks for batch in rounds)
    shares = [sum(map(len, rounds)) for rounds in ranks]
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_do_not_divide_the_samples_answer_each_once(
    size: int, model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    alone_found, _ = by_one(model, held_out(7), tmp_path / "alone")
    found = run_in_ranks(size, answer(model, held_out(7), tmp_path / "together"))
    assert [predictions for predictions, _ in found] == [alone_found] * size
    assert alone_found is not None
    assert [one.sample for one in alone_found] == [f"eval.jsonl:{line}" for line in range(1, 8)]
    assert found[0][1][-1] == (7, 7)


def test_more_ranks_than_samples(model: Phi3V, held_out: Any, tmp_path: Path) -> None:
    found = run_in_ranks(3, answer(model, held_out(1), tmp_path))
    assert [len(predictions) for predictions, _ in found] == [1, 1, 1]


def test_a_stopped_evaluation_goes_on_where_it_was_with_another_number_of_ranks(
    model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    whole, _ = by_one(model, held_out(9), tmp_path / "whole")
    first, second, third = (tmp_path / name for name in ("0001", "0002", "0003"))
    stopped = run_in_ranks(2, answer(model, held_out(9), first, stop_after=1))
    assert [predictions for predictions, _ in stopped] == [None, None]
    again, told = by_one(model, held_out(9), second, stop_after=1, others=(first,))
    assert again is None
    assert told == [(4, 9), (6, 9)]
    found = run_in_ranks(3, answer(model, held_out(9), third, others=(first, second)))
    assert [predictions for predictions, _ in found] == [whole] * 3
    assert found[0][1] == [(6, 9), (9, 9)]


def test_a_stopped_evaluation_goes_on_in_its_own_folder(model: Phi3V, held_out: Any, tmp_path: Path) -> None:
    for rounds, done in ((1, 2), (2, 6), (0, 6)):
        found, told = by_one(model, held_out(8), tmp_path, stop_after=rounds)
        assert (found, told[-1]) == (None, (done, 8))
    found, told = by_one(model, held_out(8), tmp_path)
    assert told == [(6, 8), (8, 8)]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        pytest.param({"weights": "x" * 64}, {}, id="other weights"),
        pytest.param({}, {"metric": "anls"}, id="another metric"),
        pytest.param({}, {"choices": ("yes", "no")}, id="probabilities were not asked for"),
        pytest.param({}, {"file": "other.jsonl"}, id="another file of samples"),
        pytest.param({}, {"asking": "Is it not?"}, id="another question in the same place"),
    ],
)
def test_answers_to_something_else_are_never_taken_over(
    change: dict[str, str], more: dict[str, Any], model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    by_one(model, held_out(5), tmp_path, stop_after=1)
    _, told = by_one(model, held_out(5, **more), tmp_path, **change)
    assert told[0] == (0, 5)


def test_more_samples_ask_only_those_that_are_new_and_fewer_none(
    model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    _, told = by_one(model, held_out(8, num_samples=4), tmp_path)
    assert told[-1] == (4, 4)
    _, told = by_one(model, held_out(8), tmp_path)
    assert told[0] == (4, 8)
    found, told = by_one(model, held_out(8, num_samples=3), tmp_path)
    assert (told, len(found or [])) == ([(3, 3)], 3)


def test_a_line_that_a_crash_cut_short_is_asked_again(model: Phi3V, held_out: Any, tmp_path: Path) -> None:
    whole, _ = by_one(model, held_out(6), tmp_path)
    file = tmp_path / "partial-00000.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    found, told = by_one(model, held_out(6), tmp_path)
    assert told[0] == (5, 6)
    assert found == whole


def test_a_whole_evaluation_is_taken_over_and_its_partial_files_are_gone(
    model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    asked = held_out(5).asked(WEIGHTS)
    found, _ = by_one(model, held_out(5), tmp_path)
    assert found is not None
    written = write_evaluation(tmp_path, found, score("exactMatch", found), asked, step=7, baseline=0.25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.jsonl"]
    assert read_metrics(tmp_path) == written
    assert read_predictions(tmp_path) == found
    assert read_kept([tmp_path], asked) == dict(enumerate(found))
    assert {name: written[name] for name in ("version", "step", "metric", "samples", "baseline")} == {
        "version": 1,
        "step": 7,
        "metric": "exactMatch",
        "samples": 5,
        "baseline": 0.25,
    }
    assert written["low"] <= written["value"] <= written["high"]
    assert written["asked"]["weights"] == WEIGHTS
    row = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[1])
    assert (row["sample"], row["answers"], row["group"]) == ("eval.jsonl:2", ["yes"], "statement 0")
    assert set(row) == {"sample", "question", "prediction", "answers", "score", "group"}
    _, told = by_one(model, held_out(5), tmp_path / "next", others=(tmp_path,))
    assert told == [(5, 5)]


def test_a_crash_amid_writing_never_leaves_answers_under_the_name_of_other_weights(
    model: Phi3V, held_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (held_out(3).asked(weights * 64) for weights in "wx")
    found, _ = by_one(model, held_out(3), tmp_path)
    assert found is not None
    write_evaluation(tmp_path, found, score("exactMatch", found), first, step=None, baseline=None)

    def crash(*_: object) -> None:
        raise OSError("the volume is full")

    monkeypatch.setattr(evaluation, "write_atomically", crash)
    others = [replace(one, prediction="other") for one in found]
    with pytest.raises(OSError, match="full"):
        write_evaluation(tmp_path, others, score("exactMatch", others), second, step=None, baseline=None)
    assert read_predictions(tmp_path) == others
    assert read_kept([tmp_path], first) == {}


def test_probabilities_of_the_choices_are_kept_with_the_answers(
    model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    asked = held_out(3, metric="accuracy", choices=("yes", "no"))
    found, _ = by_one(model, asked, tmp_path)
    assert found is not None
    for one in found:
        assert one.choice_log_probabilities is not None
        assert list(one.choice_log_probabilities) == ["yes", "no"]
        assert all(value < 0 for value in one.choice_log_probabilities.values())
    assert "auroc" in score("accuracy", found).details
    again, _ = by_one(model, asked, tmp_path)
    assert again == found


def test_a_sample_that_cannot_be_read_ends_every_rank_with_its_place(
    model: Phi3V, held_out: Any, tmp_path: Path
) -> None:
    def run(world: World) -> str:
        with pytest.raises(UserError) as refused:
            answer(model, held_out(6, broken=4), tmp_path)(world)
        return str(refused.value)

    assert run_in_ranks(2, run) == ["eval.jsonl:5: picture 'x.png': not found"] * 2


def test_the_digest_of_weights_depends_on_every_bit_and_not_on_the_ranks(model: Phi3V) -> None:
    weights = dict(model.named_parameters())
    name = sorted(weights)[3]
    changed = {**weights, name: weights[name].detach().clone()}
    changed[name].view(-1)[0] += 1e-6

    def digests(world: World) -> tuple[str, str]:
        return weights_digest(weights, world), weights_digest(changed, world)

    with alone(CPU) as world:
        ours, other = digests(world)
    assert ours != other
    assert run_in_ranks(3, digests) == [(ours, other)] * 3


def test_an_answer_may_be_long_enough_to_be_wrong_by_its_length(held_out: Any) -> None:
    longest = max(len(held_out(2).processor.tokenizer.encode(text, begin=False)) for text in ("yes", "no"))
    assert held_out(2).max_new_tokens() > longest
    assert held_out(2, metric="anls").max_new_tokens() > 2 * longest
