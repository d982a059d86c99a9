"""The rows of a split as pages: one or several pictures and all that is asked about them, checked once."""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from phitune_trainer.data.conversation import Conversation, parse_turn
from phitune_trainer.data.dataset import Identity, digest_of
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.jsonl import located
from phitune_trainer.data.parquet import ParquetRows
from phitune_trainer.data.pictures import read_size
from phitune_trainer.data.processor import Processor
from phitune_trainer.data.tasks.layouts import LAYOUTS, Question, RowLayout
from phitune_trainer.data.tasks.spec import Split, TaskSpec

_PICTURE_ROWS: Final = 16
"""Rows decoded at a time when all pictures are read in order."""


class Pages:
    """The pages of parquet files, counted from 0, without what is too long.

    A question whose whole sequence has more than `max_length` tokens is left out; so is a page of which none
    is left. Texts are checked when it is made, pictures when they are taken. It holds the places of the rows,
    not the rows. Every error is a DataError that names file and row.
    """

    def __init__(
        self, files: Sequence[Path], task: TaskSpec, split: Split, processor: Processor, max_length: int
    ) -> None:
        self._num_pictures = task.num_pictures or 0
        self._split = split
        self._processor = processor
        self._rows = ParquetRows(files, self._layout.columns)
        self._row_numbers = array("q")
        self.question_counts = array("i")
        """Questions that are kept, of each page."""
        self._shortened: dict[int, tuple[int, ...]] = {}
        """The numbers of the questions that are kept, for the pages where some are left out."""
        self.num_questions_skipped = 0
        """Questions left out because they are too long."""
        self.num_skipped = 0
        """Pages of which no question is left."""
        self._read_all(max_length)
        if not self._row_numbers:
            what = f"has no row of {split.about}"
            if skipped := self.num_questions_skipped:
                what = f"all {skipped} questions are longer than {max_length} tokens; raise maxLength"
            raise DataError(f"{os.path.commonpath(files)}: {what}")

    def __len__(self) -> int:
        return len(self._row_numbers)

    def identity(self) -> Identity:
        """Number of pages, rows and sizes of the files, and a digest of the rows and questions kept."""
        kept = digest_of(self._row_numbers, self.question_counts)
        return {"pages": len(self), **self._rows.sizes(), "rows and questions used (digest)": kept}

    def where(self, page: int) -> str:
        """The place of a page, as "file:row 17"; rows are counted from 0 in each file."""
        return self._rows.where(self._row_numbers[page])

    def questions(self, page: int) -> list[Question]:
        """The questions of a page that are not left out."""
        row = self._row_numbers[page]
        with located(self.where(page)):
            return self._kept(row, self._layout.questions(self._rows.read(row, self._layout.text_columns)))

    def pictures(self, page: int) -> tuple[Tensor, ...]:
        """The pictures of a page, decoded and scaled: bytes (H, W, 3) each."""
        with located(self.where(page)):
            return tuple(self._load(*picture) for picture in self._encoded(self._row_numbers[page]))

    def measure(self) -> Iterator[tuple[list[Question], list[int]]]:
        """The questions of each page in turn, and the tokens of its pictures, which are not decoded.

        Reads the files once from beginning to end.
        """
        columns = [*self._layout.text_columns, *self._layout.picture_columns]
        first = self._row_numbers[0]
        records = self._rows.scan(columns, first, self._row_numbers[-1] + 1, batch_rows=_PICTURE_ROWS)
        wanted = iter([*self._row_numbers, None])
        row_wanted = next(wanted)
        for row, record in enumerate(records, start=first):
            if row == row_wanted:
                row_wanted = next(wanted)
                with located(self._rows.where(row)):
                    questions = self._kept(row, self._layout.questions(record))
                    picture_tokens = [self._count(*picture) for picture in self._named_pictures(record)]
                yield questions, picture_tokens

    def picture_names(self) -> tuple[str, ...]:
        """The places of the pictures in a row."""
        return tuple(self._layout.picture_name(number) for number in range(self._num_pictures))

    def conversation(self, question: Question) -> Conversation:
        """A question by itself. Raises DataError (without a place) for what cannot be trained."""
        turn = {
            "images": list(self.picture_names()),
            "user": self._split.ask(question.text),
            "assistant": question.answers[0],
        }
        parsed = parse_turn(turn, question.where)
        if (
            problem := next(self._processor.special_tokens_in_turn(parsed, question.where), None)
        ) is not None:
            raise DataError(problem)
        return Conversation((parsed,))

    @property
    def _layout(self) -> RowLayout:
        return LAYOUTS[self._split.layout]

    def _kept(self, row: int, questions: list[Question]) -> list[Question]:
        asked = self._asked(questions)
        return [asked[number] for number in self._shortened.get(row, range(len(asked)))]

    def _asked(self, questions: list[Question]) -> list[Question]:
        for question in questions:
            if not question.text.strip():
                raise DataError(f"{question.where}: asks nothing; remove it")
        return questions[:1] if self._split.first_question_only else questions

    def _read_all(self, max_length: int) -> None:
        records = self._rows.scan(self._layout.text_columns, self._split.first, self._split.end)
        for row, record in enumerate(records, start=self._split.first):
            with located(self._rows.where(row)):
                asked = self._asked(self._layout.questions(record))
                kept = tuple(self._short_enough(row, asked, max_length))
            self.num_questions_skipped += len(asked) - len(kept)
            self.num_skipped += not kept
            if kept:
                self._row_numbers.append(row)
                self.question_counts.append(len(kept))
            if kept and len(kept) < len(asked):
                self._shortened[row] = kept

    def _short_enough(self, row: int, questions: Sequence[Question], max_length: int) -> Iterator[int]:
        picture_tokens: list[int] = []
        for number, question in enumerate(questions):
            conversation = self.conversation(question)
            if self._processor.most_tokens(conversation) > max_length:
                picture_tokens = picture_tokens or [self._count(*picture) for picture in self._encoded(row)]
                ids, _ = self._processor.tokenize(conversation, picture_tokens)
                if len(ids) > max_length:
                    continue
            yield number

    def _encoded(self, row: int) -> Iterator[tuple[str, bytes]]:
        """The pictures of a row, each with its place in the row."""
        return self._named_pictures(self._rows.read(row, self._layout.picture_columns))

    def _named_pictures(self, record: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        pictures = self._layout.pictures(record)
        if len(pictures) != self._num_pictures:
            raise DataError(f"must have {self._num_pictures} pictures, has {len(pictures)}")
        return zip(self.picture_names(), pictures, strict=True)

    def _load(self, name: str, picture: bytes) -> Tensor:
        with located(name):
            return self._processor.load_picture(picture)

    def _count(self, name: str, picture: bytes) -> int:
        """Tokens of a picture, which is not decoded for it."""
        with located(name):
            return self._processor.picture_tokens_of_size(*read_size(picture))
