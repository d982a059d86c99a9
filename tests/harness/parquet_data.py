"""Builders of parquet files in the published layouts: the same columns and types, a few made rows."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAULDRON = pa.schema(
    [
        ("images", pa.list_(PICTURE)),
        (
            "texts",
            pa.list_(pa.struct([(name, pa.string()) for name in ("user", "assistant", "source")])),
        ),
    ]
)
DOCVQA_1200 = pa.schema(
    [
        ("id", pa.string()),
        ("image", PICTURE),
        ("query", pa.struct([(language, pa.string()) for language in ("de", "en", "es", "fr", "it")])),
        ("answers", pa.list_(pa.string())),
        ("words", pa.list_(pa.string())),
        ("bounding_boxes", pa.list_(pa.list_(pa.float32(), 4))),
        (
            "answer",
            pa.struct(
                [
                    ("match_score", pa.float64()),
                    ("matched_text", pa.string()),
                    ("start", pa.int64()),
                    ("text", pa.string()),
                ]
            ),
        ),
    ]
)


def encoded(width: int = 40, height: int = 28, *, grey: int = 128) -> dict[str, Any]:
    """A picture of one grey, as a column of pictures holds it."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def cauldron_row(
    *texts: tuple[str, str], images: Sequence[dict[str, Any]] | None = None, source: str = "docvqa"
) -> dict[str, Any]:
    """Pictures, and for each of the texts what the user and the assistant say."""
    turns = [{"user": user, "assistant": answer, "source": source} for user, answer in texts]
    return {"images": [encoded()] if images is None else list(images), "texts": turns}


def docvqa_row(question: str, *answers: str, image: dict[str, Any] | None = None) -> dict[str, Any]:
    """A page, a question and its accepted answers."""
    return {
        "id": "train_0",
        "image": image or encoded(),
        "query": {
            language: question if language == "en" else "?" for language in ("de", "en", "es", "fr", "it")
        },
        "answers": list(answers),
        "words": ["a"],
        "bounding_boxes": [[0.0, 0.0, 1.0, 1.0]],
        "answer": {
            "match_score": 1.0,
            "matched_text": answers[0] if answers else None,
            "start": 0,
            "text": "",
        },
    }


def write_parquet(
    path: Path, schema: pa.Schema, rows: Sequence[dict[str, Any]], *, group_size: int = 2
) -> Path:
    """A file of the rows, so many to a row group, and its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=group_size)
    return path
