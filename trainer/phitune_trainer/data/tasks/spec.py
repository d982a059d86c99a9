"""What a task of the recipe consists of: splits of data, how they are asked, and the score."""

from dataclasses import dataclass
from typing import Final, Literal

from phitune_trainer.config import Task

Metric = Literal["anls", "accuracy", "exactMatch"]
Detail = Literal["anlsStandard", "consistency", "auroc"]
Layout = Literal["cauldron", "docvqa1200", "jsonl"]

_QUESTION: Final = "{question}"


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Files of a data set on the hub."""

    repo: str
    patterns: tuple[str, ...]
    """Shell patterns of the files that are needed, relative to the repository."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of a task's data, to train on or to score."""

    name: str
    """As data.train and data.eval say it."""
    about: str
    """What it is, in words, for the start-up summary."""
    layout: Layout
    files: str
    """Pattern of the files, relative to the data folder: that of the hub's repository."""
    source: HubSource | None = None
    """Where the files come from unless they lie on a claim."""
    first: int = 0
    """Rows before this one are not part of it."""
    end: int | None = None
    """Nor are this row and those after it."""
    first_question_only: bool = False
    """Whether only the first question of each row is asked."""
    prompt: str = _QUESTION
    """What the user says after the pictures; {question} is the question of the data."""

    def ask(self, question: str) -> str:
        """What the user says after the pictures.

        The_cauldron says how to answer in a line of its own after most questions; that line takes the place
        of the prompt's.
        """
        if self.layout == "cauldron" and "\n" in question.strip():
            return question
        return self.prompt.replace(_QUESTION, question)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task of the recipe."""

    name: Task
    metric: Metric
    """The main score."""
    details: tuple[Detail, ...] = ()
    """Scores beside it."""
    choices: tuple[str, ...] = ()
    """All right answers, as the data spells them, where there are only so many; the first one is positive."""
    num_pictures: int | None = None
    """Pictures of a sample; None: any number."""
    train: tuple[Split, ...] = ()
    """Splits to train on, the default one first. None for jsonl, whose files the config names."""
    held_out: tuple[Split, ...] = ()
    """Splits to score, the default one first."""
