"""Pages as samples: a page trains all its questions, each as if alone; for scores each stands by itself.

A page's sample has as its prefix what the sequences of all its questions begin with, the pictures above all,
and a branch for each question. Prefix and branch together are, token for token, what the question would be as
a sample of its own.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from phitune_trainer.data.check import EstimatingCounter
from phitune_trainer.data.costs import cost_of
from phitune_trainer.data.dataset import Identity
from phitune_trainer.data.jsonl import located
from phitune_trainer.data.processor import Processor
from phitune_trainer.data.tasks.layouts import Question
from phitune_trainer.data.tasks.pages import Pages
from phitune_trainer.model import Sample
from phitune_trainer.model.inputs import IGNORED, Branch

Tokens = tuple[list[int], list[int]]
"""Token ids and labels of one sequence."""


class PageSamples:
    """Pages to train on."""

    def __init__(self, pages: Pages, processor: Processor) -> None:
        self.pages = pages
        self.num_skipped = pages.num_skipped
        """Pages left out because all their questions are too long."""
        self._processor = processor

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, index: int) -> Sample:
        """A page and all its questions, the first accepted answer of each labelled."""
        pictures = self.pages.pictures(index)
        counts = [self._processor.picture_tokens(picture) for picture in pictures]
        questions = self.pages.questions(index)
        with located(self.where(index)):
            sequences = [
                self._processor.tokenize(self.pages.conversation(question), counts) for question in questions
            ]
        return replace(lay_out(sequences), pictures=pictures, where=self.where(index))

    def costs(self) -> Iterator[int]:
        """What each page costs to train (costs.py), in turn; no picture is decoded. Raises DataError."""
        counter = EstimatingCounter(self._processor)
        for questions, picture_tokens in self.pages.measure():
            texts = (counter.count(self.pages.conversation(question), ())[0] for question in questions)
            yield cost_of(sum(picture_tokens) + sum(texts), sum(picture_tokens))

    def identity(self) -> Identity:
        """What tells these pages from changed ones."""
        return self.pages.identity()

    def where(self, index: int) -> str:
        """The place of a page, as "file:row 17"."""
        return self.pages.where(index)


class PageQuestions:
    """Held-out questions about pages, each a sample with all its accepted answers."""

    def __init__(self, pages: Pages, processor: Processor) -> None:
        self.pages = pages
        self.num_skipped = pages.num_questions_skipped
        """Questions left out because they are too long."""
        self._processor = processor
        self._page_of = array("q")
        self._number_of = array("q")
        for page, count in enumerate(pages.question_counts):
            self._page_of.extend([page] * count)
            self._number_of.extend(range(count))

    def __len__(self) -> int:
        return len(self._page_of)

    def prompt(self, index: int) -> Sample:
        """A question up to its answer."""
        page = self._page_of[index]
        pictures = self.pages.pictures(page)
        counts = [self._processor.picture_tokens(picture) for picture in pictures]
        with located(self.where(index)):
            conversation = self.pages.conversation(self._question(index))
            ids, labels = self._processor.tokenize(conversation, counts, prompt_only=True)
        return Sample(
            input_ids=torch.tensor(ids),
            labels=torch.tensor(labels),
            pictures=pictures,
            where=self.where(index),
        )

    def question(self, index: int) -> str:
        """What is asked, as the prompt has it."""
        return self.pages.conversation(self._question(index)).turns[0].user

    def answers(self, index: int) -> tuple[str, ...]:
        """All accepted answers."""
        return self._question(index).answers

    def where(self, index: int) -> str:
        """The place of a question, as "file:row 17" or "file:row 17:texts[3]"."""
        page = self._page_of[index]
        place = self.pages.where(page)
        is_alone = self.pages.question_counts[page] == 1
        return place if is_alone else f"{place}:{self._question(index).where}"

    def group(self, index: int) -> str:
        """The statement, where a page is a pair of pictures that it is true or false of; else ""."""
        return self._question(index).statement if len(self.pages.picture_names()) == 2 else ""

    def pictures(self, index: int) -> tuple[str, ...]:
        """The places of the pictures, as "file:row 17:images[0]": questions about one page share them."""
        page = self.pages.where(self._page_of[index])
        return tuple(f"{page}:{name}" for name in self.pages.picture_names())

    def _question(self, index: int) -> Question:
        return self.pages.questions(self._page_of[index])[self._number_of[index]]


def lay_out(sequences: Sequence[Tokens]) -> Sample:
    """One sample that stands for all sequences: what they begin with in common, then a branch for each.

    The common part ends before the last token of the shortest prompt, so that every branch begins with a
    token that is not trained. A single sequence has no branches.
    """
    if len(sequences) == 1:
        ids, labels = sequences[0]
        return Sample(input_ids=torch.tensor(ids), labels=torch.tensor(labels))
    shortest = min(_prompt_length(labels) for _, labels in sequences)
    columns = zip(*(ids[: shortest - 1] for ids, _ in sequences), strict=True)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return Sample(
        input_ids=torch.tensor(sequences[0][0][:shared], dtype=torch.int64),
        labels=torch.full((shared,), IGNORED, dtype=torch.int64),
        branches=tuple(
            Branch(input_ids=_rest(ids, shared), labels=_rest(labels, shared)) for ids, labels in sequences
        ),
    )


def _prompt_length(labels: Sequence[int]) -> int:
    return next(place for place, label in enumerate(labels) if label != IGNORED)


def _rest(tokens: Sequence[int], start: int) -> Tensor:
    return torch.tensor(tokens[start:], dtype=torch.int64)
