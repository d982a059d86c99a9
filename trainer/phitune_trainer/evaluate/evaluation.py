"""One evaluation: all ranks answer their share of the held-out samples, rank 0 writes what came out."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from phitune_trainer.config import TrainConfig
from phitune_trainer.data import DataError, Processor
from phitune_trainer.data.dataset import Questions
from phitune_trainer.data.tasks import TASKS
from phitune_trainer.engine.world import World
from phitune_trainer.evaluate.kept import (
    METRICS,
    PREDICTIONS,
    Asked,
    PartialFile,
    read_kept,
    read_metrics,
    remove_partial,
    start_partial,
    write_predictions,
)
from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.evaluate.scores import Scores, sample_score
from phitune_trainer.model import Phi3V, Sample, answering, choice_log_probabilities, generate
from phitune_trainer.run_layout import RunLayout, write_atomically
from phitune_trainer.strict_json import to_json
from phitune_trainer.tokenizer import END

Embed = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Pictures to what the vision part makes of each, as `VisionEmbedding.each` does."""

_SPARE_TOKENS: Final = 8
"""Tokens an answer may have more than the longest right one; it is wrong by then anyway."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The samples to score, and how to ask."""

    questions: Questions
    processor: Processor
    num_samples: int
    """The first ones of the questions; at least one."""
    batch_size: int
    """Samples of one generation pass on one rank."""
    metric: str
    """The main score; see scores.py."""
    choices: tuple[str, ...] = ()
    """The possible answers, where their probabilities are scored too; the positive one first."""

    def max_new_tokens(self) -> int:
        """Most tokens generated for an answer: what is longer is wrong by then, or not similar any more."""
        encode = self.processor.tokenizer.encode
        answers = {answer for index in range(self.num_samples) for answer in self.questions.answers(index)}
        longest = max(len(encode(answer, begin=False)) for answer in answers)
        # Half of an answer may be wrong and still earn something by ANLS: cut off too early, a rambling one
        # would look similar to a long right one.
        return (2 if self.metric == "anls" else 1) * longest + _SPARE_TOKENS

    def asked(self, weights: str) -> Asked:
        """What decides the answers: two evaluations in which this is equal may share them."""
        return {
            "version": 1,
            "weights": weights,
            "metric": self.metric,
            "choices": list(self.choices),
            "numCrops": self.processor.num_crops,
            "maxNewTokens": self.max_new_tokens(),
        }

    def question(self, index: int) -> "Question":
        """One sample with all that is kept of it. Raises DataError."""
        return Question(index, self.questions.prompt(index), self._facts(index))

    def is_about(self, index: int, known: Prediction) -> bool:
        """Whether an answer from disk belongs to the sample of this number, as the data is now."""
        if index >= self.num_samples:
            return False
        facts = self._facts(index)
        return facts == {name: getattr(known, name) for name in facts}

    def _facts(self, index: int) -> dict[str, Any]:
        questions = self.questions
        return {
            "sample": questions.where(index),
            "question": questions.question(index),
            "answers": questions.answers(index),
            "pictures": questions.pictures(index),
            "group": questions.group(index),
        }


def hold_out(config: TrainConfig, questions: Questions, processor: Processor) -> HeldOut:
    """What to score of a task's held-out samples, and how. DataError if there are none."""
    if not len(questions):
        raise DataError(f"task {config.task}: there are no held-out samples to score in {config.data_dir}")
    task = TASKS[config.task]
    return HeldOut(
        questions=questions,
        processor=processor,
        num_samples=min(len(questions), config.evaluation.max_samples or len(questions)),
        batch_size=config.training.micro_batch_size,
        metric=task.metric,
        choices=task.choices if "auroc" in task.details else (),
    )


@dataclass(frozen=True)
class Question:
    """One held-out sample, its pictures decoded."""

    index: int
    prompt: Sample
    facts: Mapping[str, Any]
    """What a Prediction says of the sample, by the names of its fields."""


def rounds_of(indices: Sequence[int], rank: int, size: int, batch_size: int) -> list[Sequence[int]]:
    """The batches that one rank answers, as many on every rank; the last ones of some may be empty.

    The ranks take turns: every index is in exactly one batch of one rank.
    """
    mine = indices[rank::size]
    num_rounds = math.ceil(len(indices) / (size * batch_size))
    return [mine[first : first + batch_size] for first in range(0, num_rounds * batch_size, batch_size)]


def predict(
    model: Phi3V,
    held_out: HeldOut,
    world: World,
    folder: Path,
    asked: Asked,
    *,
    others: Sequence[Path] = (),
    embed: Embed | None = None,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> list[Prediction] | None:
    """All predictions in the order of the samples, the same on all ranks; None if a rank was asked to stop.

    Answers to the same `asked` that lie in `folder`, or in `others` that are only read, are not asked for
    again. Each sample is answered once, whatever the number of ranks. `embed` stands for the vision part,
    where that need not be asked each time. `on_progress` gets the numbers of samples done and in all, first
    of all that of those which are not asked again.
    """
    embed = embed or model.model.vision_embed_tokens.each
    known = world.from_first(lambda: _take_over(held_out, folder, asked, others))
    unknown = [index for index in range(held_out.num_samples) if index not in known]
    rounds = rounds_of(unknown, world.rank, world.size, held_out.batch_size)
    found: dict[int, Prediction] = {}
    on_progress(len(known), held_out.num_samples)
    if not world.is_first:
        start_partial(folder, world.rank, asked, {})
    with (
        PartialFile(folder, world.rank) as file,
        ThreadPoolExecutor(1, thread_name_prefix="questions") as ahead,
    ):
        nexts = [ahead.submit(_questions, held_out, indices) for indices in rounds[:1]]
        for number in range(len(rounds)):
            questions, problem = _result_of(nexts.pop())
            is_stopping, has_failed = world.sum([should_stop(), problem is not None])
            if has_failed:
                world.together(partial(_raise, problem))
            if is_stopping:
                return None
            nexts += [ahead.submit(_questions, held_out, one) for one in rounds[number + 1 : number + 2]]
            answers = _answer(model, held_out, embed, questions, int(asked["maxNewTokens"]))
            file.add(answers)
            found.update(answers)
            done = min(len(unknown), (number + 1) * world.size * held_out.batch_size)
            on_progress(len(known) + done, held_out.num_samples)
    for share in world.gather(found):
        known.update(share)
    return [known[index] for index in range(held_out.num_samples)]


def write_evaluation(
    folder: Path,
    predictions: Sequence[Prediction],
    scores: Scores,
    asked: Asked,
    *,
    step: int | None,
    baseline: float | None,
) -> dict[str, Any]:
    """Write predictions.jsonl and then metrics.json, and return the latter.

    `step`: optimizer steps behind the weights; None where they are of no run.
    """
    # Of an earlier evaluation: stopped here, its word for what was asked would stand beside these answers.
    (folder / METRICS).unlink(missing_ok=True)
    write_predictions(folder / PREDICTIONS, predictions)
    metrics = {"version": 1, "step": step, **scores.to_json(), "baseline": baseline, "asked": dict(asked)}
    write_atomically(folder / METRICS, to_json(metrics, indent=1) + "\n")
    remove_partial(folder)
    return metrics


def find_baseline(layout: RunLayout) -> float | None:
    """The score of the base model, if any start of this run has measured it."""
    for number in layout.incarnation_numbers():
        value = read_metrics(layout.incarnation(number).evaluation(0)).get("value")
        if isinstance(value, int | float):
            return float(value)
    return None


def _take_over(
    held_out: HeldOut, folder: Path, asked: Asked, others: Sequence[Path]
) -> dict[int, Prediction]:
    """What is known already, put into rank 0's file before another rank starts its own anew."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = read_kept([*others, folder], asked)
    known = {index: one for index, one in sorted(kept.items()) if held_out.is_about(index, one)}
    start_partial(folder, 0, asked, known)
    return known


def _questions(held_out: HeldOut, indices: Sequence[int]) -> list[Question]:
    return [held_out.question(index) for index in indices]


def _result_of(future: Future[list[Question]]) -> tuple[list[Question], Exception | None]:
    try:
        return future.result(), None
    except DataError as problem:
        return [], problem


def _raise(problem: Exception | None) -> None:
    if problem is not None:
        raise problem


def _answer(
    model: Phi3V, held_out: HeldOut, embed: Embed, questions: Sequence[Question], max_new_tokens: int
) -> dict[int, Prediction]:
    processor, prompts = held_out.processor, [question.prompt for question in questions]
    with answering(model):
        embedded = embed([picture for prompt in prompts for picture in prompt.pictures])
    eos_ids = processor.tokenizer.eos_ids
    outputs = generate(model, prompts, max_new_tokens=max_new_tokens, eos_ids=eos_ids, embedded=embedded)
    likely = _choices(model, held_out, prompts, embedded)
    found = {}
    for question, tokens, choices in zip(questions, outputs, likely, strict=True):
        text = processor.decode(tokens)
        found[question.index] = Prediction(
            prediction=text,
            score=sample_score(held_out.metric, text, question.facts["answers"]),
            choice_log_probabilities=choices,
            **question.facts,
        )
    return found


def _choices(
    model: Phi3V, held_out: HeldOut, prompts: Sequence[Sample], embedded: Sequence[Tensor]
) -> Sequence[Mapping[str, float] | None]:
    """The log probability of each choice after each prompt; None where one is not a finite number."""
    if not held_out.choices or not prompts:
        return [None] * len(prompts)
    encode = held_out.processor.tokenizer.encode
    tokens = [encode(choice + END, begin=False) for choice in held_out.choices]
    rows = choice_log_probabilities(model, prompts, tokens, embedded=embedded).tolist()
    return [
        dict(zip(held_out.choices, row, strict=True)) if all(map(math.isfinite, row)) else None
        for row in rows
    ]
