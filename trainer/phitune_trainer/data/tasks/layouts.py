"""The published layouts of parquet files: what their columns are, and what a row asks.

A row is one or several pictures and one or several questions about them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from phitune_trainer.data.errors import DataError
from phitune_trainer.data.parquet import PICTURE
from phitune_trainer.data.tasks.spec import Layout

_QUOTED: Final = re.compile(r'"(.+)"', re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One question of a row."""

    where: str
    """Its place in the row, such as texts[3]."""
    text: str
    answers: tuple[str, ...]
    """All that are accepted. The first one is trained: the same in every epoch, for any number of workers."""

    @property
    def statement(self) -> str:
        """What is said about the pictures, the same for all pairs of NLVR2 that share a statement.

        The_cauldron puts it in quotes and varies the words around them.
        """
        quoted = _QUOTED.search(self.text)
        return " ".join((quoted.group(1) if quoted else self.text).lower().split())


class RowLayout(Protocol):
    """How to read a row."""

    @property
    def columns(self) -> Mapping[str, pa.DataType]:
        """What a file must have."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """What `questions` needs: a small part of the file."""

    @property
    def picture_columns(self) -> tuple[str, ...]:
        """What `pictures` needs: most of the file."""

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """The questions of a row. Raises DataError (without a place)."""

    def pictures(self, row: Mapping[str, Any]) -> list[bytes]:
        """The pictures of a row as they are encoded. Raises DataError (without a place)."""

    def picture_name(self, number: int) -> str:
        """The place of a picture in its row."""


class Cauldron:
    """HuggingFaceM4/the_cauldron, any of its subsets."""

    columns: Mapping[str, pa.DataType] = {
        "images": pa.list_(PICTURE),
        "texts": pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string())])),
    }
    text_columns = ("texts",)
    picture_columns = ("images",)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """One for each of the texts."""
        texts = _filled(row["texts"], "texts")
        return [
            Question(f"texts[{number}]", text["user"] or "", (text["assistant"] or "",))
            for number, text in enumerate(texts)
        ]

    def pictures(self, row: Mapping[str, Any]) -> list[bytes]:
        """All of the images."""
        images = _filled(row["images"], "images")
        return [_encoded(image, self.picture_name(number)) for number, image in enumerate(images)]

    def picture_name(self, number: int) -> str:
        """As the columns say."""
        return f"images[{number}]"


class Docvqa1200:
    """nielsr/docvqa_1200_examples: a page, one question in several languages, its accepted answers."""

    columns: Mapping[str, pa.DataType] = {
        "image": PICTURE,
        "query": pa.struct([("en", pa.string())]),
        "answers": pa.list_(pa.string()),
    }
    text_columns = ("query.en", "answers")
    picture_columns = ("image",)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """The English one."""
        answers = tuple(answer or "" for answer in _filled(row["answers"], "answers"))
        query = row["query"]
        return [Question("query", (query and query["en"]) or "", answers)]

    def pictures(self, row: Mapping[str, Any]) -> list[bytes]:
        """The page."""
        return [_encoded(row["image"], self.picture_name(0))]

    def picture_name(self, number: int) -> str:
        """As the column says: there is one."""
        return "image"


LAYOUTS: Final[Mapping[Layout, RowLayout]] = {"cauldron": Cauldron(), "docvqa1200": Docvqa1200()}
"""Those of parquet files; a jsonl file is read by `jsonl.py`."""


def _filled(values: list[Any] | None, name: str) -> list[Any]:
    if not values or None in values:
        raise DataError(f"{name}: is empty or has an empty entry; remove the row")
    return values


def _encoded(picture: Mapping[str, Any] | None, where: str) -> bytes:
    if picture is None or not picture["bytes"]:
        raise DataError(f"{where}: has no bytes; the file must hold the pictures themselves")
    return bytes(picture["bytes"])
