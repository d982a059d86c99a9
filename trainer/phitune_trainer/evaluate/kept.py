"""Answers on disk, so that an evaluation that was stopped goes on where it was.

Each rank adds its answers to a file of its own in the evaluation's folder, `partial-00000.jsonl`. The first
line says what was asked of which weights; only a file that says the same is ever read again, whichever start
of the run, and whatever number of ranks, wrote it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from phitune_trainer.errors import writing_to
from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.run_layout import write_atomically

PREDICTIONS = "predictions.jsonl"
METRICS = "metrics.json"
_PARTIAL = "partial-*.jsonl"

Asked = Mapping[str, Any]
"""What was asked of which weights, as JSON can say it: answers are exchangeable where it is equal."""


def read_kept(folders: Sequence[Path], asked: Asked) -> dict[int, Prediction]:
    """The answers to `asked` in these folders, by the sample's number: of whole and of stopped evaluations.

    A line that is cut short or damaged, as a crash leaves it, ends its file: what follows is asked again.
    """
    known: dict[int, Prediction] = {}
    for folder in folders:
        if read_metrics(folder).get("asked") == asked:
            known.update(enumerate(_answers(_rows(folder / PREDICTIONS))))
        for path in sorted(folder.glob(_PARTIAL)):
            rows = _rows(path)
            if next(rows, None) == asked:
                known.update((int(row["index"]), one) for row, one in _with_answers(rows))
    return known


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of an evaluation's folder; empty where it is not complete, or damaged."""
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def read_predictions(folder: Path) -> list[Prediction]:
    """The lines of predictions.jsonl. KeyError, TypeError or ValueError where a line is something else."""
    with (folder / PREDICTIONS).open(encoding="utf-8") as file:
        return [Prediction.from_row(json.loads(line)) for line in file]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions.jsonl whole."""
    write_atomically(path, "".join(_line(one.to_row()) for one in predictions))


def remove_partial(folder: Path) -> None:
    """Remove the ranks' own files, once predictions.jsonl and metrics.json hold everything."""
    for path in folder.glob(_PARTIAL):
        path.unlink(missing_ok=True)


def start_partial(folder: Path, rank: int, asked: Asked, known: Mapping[int, Prediction]) -> None:
    """Begin a rank's file anew, with what is known already; the folder must exist."""
    write_atomically(_partial(folder, rank), _line(asked) + _lines(known))


class PartialFile:
    """A rank's file, once it has been started: what is added has reached the disk when `add` returns."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = _partial(folder, rank)
        self._file: TextIO = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing_to(self._path):  # what could not be written is tried once more
            self._file.close()

    def add(self, answers: Mapping[int, Prediction]) -> None:
        """Add answers by the numbers of their samples."""
        if not answers:
            return
        with writing_to(self._path):
            self._file.write(_lines(answers))
            self._file.flush()
            os.fsync(self._file.fileno())


def _partial(folder: Path, rank: int) -> Path:
    return folder / f"partial-{rank:05d}.jsonl"


def _lines(answers: Mapping[int, Prediction]) -> str:
    return "".join(_line({"index": index, **one.to_row()}) for index, one in answers.items())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file up to the first that is none; of no file none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith("\n") or not isinstance(row, dict):
                return
            yield row


def _with_answers(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Rows and what they say, up to the first that says no answer."""
    for row in rows:
        try:
            yield row, Prediction.from_row(row)
        except (KeyError, TypeError, ValueError):
            return


def _answers(rows: Iterator[dict[str, Any]]) -> Iterator[Prediction]:
    return (one for _, one in _with_answers(rows))
