"""One evaluation: all ranks answer their share of the held-out samples, rank 0 writes what came out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phitune_trainer.data import JsonlDataset, Processor
from phitune_trainer.engine.world import World
from phitune_trainer.evaluate.scores import METRIC, exact_match
from phitune_trainer.model import Phi3V, generate
from phitune_trainer.run_layout import RunLayout, write_atomically
from phitune_trainer.tokenizer import END, END_OF_TEXT

_SPARE_TOKENS = 8
"""Tokens an answer may have more than the longest right one; it is wrong by then anyway."""


@dataclass(frozen=True)
class HeldOut:
    """The samples to score, and how to ask."""

    dataset: JsonlDataset
    processor: Processor
    num_samples: int
    batch_size: int
    """Samples of one generation pass on one rank."""

    def max_new_tokens(self) -> int:
        """Most tokens generated for an answer."""
        encode = self.processor.tokenizer.encode
        answers = {self.dataset.answer(index) for index in range(self.num_samples)}
        return max(len(encode(answer, begin=False)) for answer in answers) + _SPARE_TOKENS


@dataclass(frozen=True)
class Prediction:
    """What the model answered to one sample."""

    sample: str
    """Where it comes from, as "file:line"."""
    prediction: str
    answers: list[str]
    score: float


def predict(
    model: Phi3V,
    held_out: HeldOut,
    world: World,
    *,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> list[Prediction] | None:
    """All predictions in the order of the samples, the same on all ranks; None if a rank was asked to stop.

    Rank r answers the samples r, r + size, ...: each sample is answered once, whatever the number of ranks.
    """
    mine = range(world.rank, held_out.num_samples, world.size)
    num_rounds = -(-held_out.num_samples // (world.size * held_out.batch_size))
    max_new_tokens = held_out.max_new_tokens()
    predictions: list[Prediction] = []
    for round_number in range(num_rounds):
        if world.sum([should_stop()])[0]:
            return None
        first = round_number * held_out.batch_size
        predictions += _answer(model, held_out, mine[first : first + held_out.batch_size], max_new_tokens)
        on_progress(round_number + 1, num_rounds)
    shares = world.gather(predictions)
    return [shares[index % world.size][index // world.size] for index in range(held_out.num_samples)]


def write_evaluation(folder: Path, predictions: list[Prediction], step: int) -> dict[str, Any]:
    """Write predictions.jsonl and then metrics.json, and return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = (
        {"sample": p.sample, "prediction": p.prediction, "answers": p.answers, "score": p.score}
        for p in predictions
    )
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomically(folder / "predictions.jsonl", text)
    value = sum(prediction.score for prediction in predictions) / len(predictions)
    metrics = {"version": 1, "step": step, "metric": METRIC, "value": value, "samples": len(predictions)}
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    return metrics


def find_baseline(layout: RunLayout) -> float | None:
    """The score of the base model, if any start of this run has measured it."""
    for number in layout.incarnation_numbers():
        path = layout.incarnation(number).evaluation(0) / "metrics.json"
        if path.is_file():
            return float(json.loads(path.read_text(encoding="utf-8"))["value"])
    return None


def _answer(model: Phi3V, held_out: HeldOut, indices: range, max_new_tokens: int) -> list[Prediction]:
    processor, dataset = held_out.processor, held_out.dataset
    prompts = [dataset.prompt(index) for index in indices]
    eos_ids = [processor.tokenizer.special_ids[name] for name in (END, END_OF_TEXT)]
    outputs = generate(model, prompts, max_new_tokens=max_new_tokens, eos_ids=eos_ids)
    found = []
    for index, tokens in zip(indices, outputs, strict=True):
        prediction, answers = processor.decode(tokens), [dataset.answer(index)]
        found.append(Prediction(dataset.where(index), prediction, answers, exact_match(prediction, answers)))
    return found
