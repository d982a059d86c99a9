"""Everything that is wrong with a jsonl file, and how long its samples are, before anything is trained on it.

Unlike the data set that training reads, which stops at the first problem, this goes through the whole file.
Pictures are opened for their size and not decoded, but for the rare one whose end looks cut off.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from phitune_trainer.data.conversation import Conversation
from phitune_trainer.data.costs import cost_of
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.jsonl import examine_line, read_lines
from phitune_trainer.data.pictures import examine_file, find_picture
from phitune_trainer.data.processor import Processor
from phitune_trainer.model_config import VisionConfig
from phitune_trainer.tokenizer import TextTokenizer, build_tokenizer

MOST_KEPT = 1000
"""Problems whose text is kept; further ones are counted."""
MOST_TOLD = 20
"""Problems in the message of an error."""

_REMEMBERED = 100_000
"""Pictures whose size is kept: data of several questions a picture names each of them again and again."""

_BYTES_PER_TOKEN = 3.5
"""Of text, estimated. Measured on English prose with the published tokenizer: 3.5 to 4.5."""
_USUAL_FRAME_TOKENS = 14
"""Of a turn: what the published template puts around question and answer."""


class Counter(Protocol):
    """How the tokens of a sample are counted."""

    @property
    def processor(self) -> Processor:
        """Counts the tokens of pictures, and knows the special tokens."""

    @property
    def is_exact(self) -> bool:
        """Whether training will count the same."""

    def count(self, conversation: Conversation, picture_tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens of a conversation, and how many of them are trained. Raises DataError."""


@dataclass(frozen=True)
class ExactCounter:
    """Counts as training will."""

    processor: Processor
    is_exact: bool = True

    def count(self, conversation: Conversation, picture_tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens of a conversation, and how many of them are trained."""
        return self.processor.count_tokens(conversation, picture_tokens)


@dataclass(frozen=True)
class EstimatingCounter:
    """Counts pictures as the published model does, and guesses at text: for use without a tokenizer."""

    processor: Processor
    is_exact: bool = False

    @classmethod
    def published(cls, num_crops: int) -> "EstimatingCounter":
        """For the published model. Its special tokens are known; its vocabulary is not at hand."""
        return cls(Processor(TextTokenizer(build_tokenizer(), "built in"), VisionConfig(), num_crops))

    def count(self, conversation: Conversation, picture_tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens of a conversation, and how many of them are trained."""
        asked = sum(len(turn.user.encode()) for turn in conversation.turns)
        answered = sum(len(turn.assistant.encode()) for turn in conversation.turns)
        frame = _USUAL_FRAME_TOKENS * len(conversation.turns)
        trained = round(answered / _BYTES_PER_TOKEN) + 3 * len(conversation.turns) + 1
        return sum(picture_tokens) + frame + round(asked / _BYTES_PER_TOKEN) + trained, trained


@dataclass
class DataReport:
    """What was found in a file."""

    file: Path
    num_bad: int = 0
    """Lines with a problem. They count in none of the numbers below."""
    num_turns: int = 0
    num_pictures: int = 0
    num_text_only: int = 0
    """Samples without a picture."""
    num_trained_tokens: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    """Tokens of each good sample, in the order of the file."""
    costs: "array[int]" = field(default_factory=lambda: array("q"))
    """What each good sample costs to train (costs.py), in the order of the file."""
    num_problems: int = 0
    problems: list[str] = field(default_factory=list)
    """The first ones, each with its place, as "file:line: what is wrong"."""

    @property
    def num_samples(self) -> int:
        """Good samples."""
        return len(self.lengths)

    def num_longer_than(self, max_length: int) -> int:
        """Samples that training leaves out where maxLength is this."""
        return sum(length > max_length for length in self.lengths)

    def costs_up_to(self, max_length: int) -> Iterator[int]:
        """What the samples cost that training takes where maxLength is this, in their order."""
        pairs = zip(self.costs, self.lengths, strict=True)
        return (cost for cost, length in pairs if length <= max_length)

    def refuse_if_bad(self, max_length: int | None = None) -> None:
        """Raise DataError with all problems, but not too many to read; or if nothing is left to train on.

        `max_length` is the number of tokens that a sample may have, if there is a limit.
        """
        if self.num_problems == 1:
            raise DataError(self.problems[0])
        if self.num_problems:
            told = self.problems[:MOST_TOLD]
            if self.num_problems > len(told):
                told.append(f"and {self.num_problems - len(told):,} more; `phitune data check` lists them")
            raise DataError("\n".join([f"{self.file}: {self.num_problems:,} problems", *told]))
        if nothing := self.nothing_left(max_length):
            raise DataError(nothing)

    def nothing_left(self, max_length: int | None = None) -> str | None:
        """Why there is nothing to train on where maxLength is this; None where there is something."""
        if not self.lengths:
            return f"{self.file}: has no samples"
        if max_length is not None and self.num_longer_than(max_length) == self.num_samples:
            return (
                f"{self.file}: all {self.num_samples} samples are longer than {max_length} tokens; "
                "raise maxLength"
            )
        return None


def check_jsonl(
    file: Path, image_root: Path, counter: Counter, on_line: Callable[[int, int], None] = lambda *_: None
) -> DataReport:
    """Go through a file; `on_line` gets the number and the offset in bytes of each line.

    Raises DataError only where the file itself cannot be read.
    """
    report = DataReport(file)

    @lru_cache(_REMEMBERED)
    def tokens_of(name: str) -> int:
        return _picture_tokens(name, image_root, counter.processor)

    for number, offset, line in read_lines(file):
        on_line(number, offset)
        problems = _check_line(line, tokens_of, counter, report)
        if problems:
            report.num_bad += 1
            report.num_problems += len(problems)
            room = MOST_KEPT - len(report.problems)
            report.problems += [f"{file}:{number}: {problem}" for problem in problems[:room]]
    return report


def _check_line(
    line: bytes, tokens_of: Callable[[str], int], counter: Counter, report: DataReport
) -> list[str]:
    """Add a line to the report if nothing is wrong with it; else say what is.

    `tokens_of` gives those of a picture by its name, or raises DataError.
    """
    examined = examine_line(line)
    conversation, processor = examined.conversation, counter.processor
    problems = [*examined.problems, *processor.special_tokens_in(conversation)]
    picture_tokens = []
    for name in conversation.images:
        try:
            picture_tokens.append(tokens_of(name))
        except DataError as error:
            problems.append(str(error))
    if problems:
        return problems
    num_tokens, num_trained = counter.count(conversation, picture_tokens)
    report.lengths.append(num_tokens)
    report.costs.append(cost_of(num_tokens, sum(picture_tokens)))
    report.num_trained_tokens += num_trained
    report.num_turns += len(conversation.turns)
    report.num_pictures += len(picture_tokens)
    report.num_text_only += not picture_tokens
    return []


def _picture_tokens(name: str, image_root: Path, processor: Processor) -> int:
    path = find_picture(name, image_root)
    width, height, may_be_cut = examine_file(path)
    if may_be_cut:
        processor.load_picture(path)
    return processor.picture_tokens_of_size(width, height)
