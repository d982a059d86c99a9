"""Pages with the sizes of DocVQA's, and nothing on them: crops, questions, and tokens of both.

DocVQA has 3.87 questions a page in the mean, and with one of them a page is 2443 tokens long; most pages are
portraits that fill 4 x 4 of 16 crops, some fill 12.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from phitune_trainer.model import Sample
from phitune_trainer.model.inputs import IGNORED, Branch
from phitune_trainer.model_config import ModelConfig

GRIDS = ((4, 4), (4, 4), (4, 3), (4, 4), (4, 4))
"""Rows and columns of crops of each page."""
QUESTIONS = (2, 4, 3, 4, 6)
"""Of each page: 3.8 in the mean."""
NUM_CROPS = 16
"""That a page may fill; the global view is one more."""

_BEFORE, _QUESTION, _ANSWER = 5, 28, 10
"""Tokens before the picture, and of a question and its answer."""


def pages(config: ModelConfig, *, seed: int = 0) -> list[Sample]:
    """Pages with all their questions, of random pixels and tokens."""
    random = torch.Generator().manual_seed(seed)
    return [_page(config, grid, count, random) for grid, count in zip(GRIDS, QUESTIONS, strict=True)]


def apart(page: Sample) -> Iterator[Sample]:
    """The questions of a page, each as a sample of its own."""
    for branch in page.branches:
        yield replace(
            page,
            input_ids=torch.cat([page.input_ids, branch.input_ids]),
            labels=torch.cat([page.labels, branch.labels]),
            branches=(),
        )


def one_question(page: Sample) -> Sample:
    """The page with its first question, as the recipe trains it."""
    return next(apart(page))


def _page(config: ModelConfig, grid: tuple[int, int], num_questions: int, random: torch.Generator) -> Sample:
    rows, columns = grid
    edge = config.vision.image_size
    ids = torch.cat([_text(_BEFORE, random), torch.full((config.vision.image_tokens(*grid),), -1)])
    return Sample(
        input_ids=ids,
        labels=torch.full_like(ids, IGNORED),
        pictures=(
            torch.randint(0, 256, (rows * edge, columns * edge, 3), dtype=torch.uint8, generator=random),
        ),
        branches=tuple(_branch(random) for _ in range(num_questions)),
    )


def _branch(random: torch.Generator) -> Branch:
    question, answer = _text(_QUESTION, random), _text(_ANSWER, random)
    return Branch(
        input_ids=torch.cat([question, answer]),
        labels=torch.cat([torch.full_like(question, IGNORED), answer]),
    )


def _text(length: int, random: torch.Generator) -> Tensor:
    return torch.randint(3, 1000, (length,), generator=random)
