"""A run as its folder on the volume tells it: what was asked, every step that counts, scores and answers.

Read whatever state the run is in: running, stopped, failed or complete. What is damaged or missing is left
out and said in `notes`; only a folder that is no run at all is refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

import yaml

from phitune_trainer.errors import UserError
from phitune_trainer.evaluate.kept import read_metrics, read_predictions
from phitune_trainer.evaluate.prediction import Prediction
from phitune_trainer.report.line import Segment, StartRecord, line_of, steps_of
from phitune_trainer.result import read_result
from phitune_trainer.run_layout import RunLayout, steps_in

_TOO_LARGE: Final = 1e300
"""Which no number of a run comes near."""

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""


@dataclass(kw_only=True)
class RunRecord:
    """What is known of a run."""

    path: Path
    volume: Path
    """The volume's root as it is mounted now; the run's folder where that was copied out of its volume."""
    config_text: str
    config: Mapping[str, Any]
    """The same, read; empty where that is not possible."""
    result: Mapping[str, Any] | None
    """result.json; None for a run that is not complete."""
    starts: Mapping[int, StartRecord]
    """All starts, by their numbers."""
    line: list[Segment]
    """Which steps count, and whose they are; oldest first."""
    rows: list[Row]
    """The steps that count, lowest first."""
    num_left_behind: int
    """Steps that were trained and do not count: a later start continued from before them."""
    summary: Mapping[str, str]
    """The start-up summary of the newest start that has one."""
    total_steps: int | None
    evaluations: list[Row] = field(default_factory=list)
    """metrics.json of those that count, lowest step first."""
    before: Mapping[str, Prediction] = field(default_factory=dict)
    """Answers of the weights that it began with, by the place of their sample."""
    after: list[Prediction] = field(default_factory=list)
    """Answers of the last evaluation."""
    checkpoints: list[tuple[int, Path]] = field(default_factory=list)
    """Those of the line that are there: step and folder."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, and why."""


def read_run(layout: RunLayout, result: Mapping[str, Any] | None = None) -> RunRecord:
    """All of it; `result` stands for a result.json that is still to be written. UserError if it is no run."""
    if not layout.config.is_file():
        raise UserError(f"{layout.path}: is not the folder of a run, it has no config.yaml")
    notes: list[str] = []
    config_text = layout.config.read_text(encoding="utf-8", errors="replace")
    starts = dict(_read_starts(layout, notes))
    line = line_of(starts)
    rows: list[Row] = []
    num_written = 0
    for number in starts:
        written = list(_read_rows(layout, number, notes))
        num_written += len(written)
        rows += [row for segment in line if segment.start == number for row in steps_of(segment, written)]
    rows.sort(key=lambda row: int(row["step"]))
    summary, total_steps = _read_summary(layout, line)
    run = RunRecord(
        path=layout.path,
        volume=layout.volume if len(layout.path.parents) > 3 else layout.path,
        config_text=config_text,
        config=_read_config(config_text, notes),
        result=_read_result(layout, notes) if result is None else result,
        starts=starts,
        line=line,
        rows=rows,
        num_left_behind=num_written - len(rows),
        summary=summary,
        total_steps=total_steps,
        notes=notes,
    )
    _read_evaluations(layout, run)
    run.checkpoints = [
        (step, layout.incarnation(segment.start).checkpoint(step))
        for segment in line
        for step in steps_in(layout.incarnation(segment.start).checkpoints)
        if segment.holds(step)
    ]
    return run


def _within(layout: RunLayout, path: Path) -> str:
    return str(path.relative_to(layout.path))


def _read_config(text: str, notes: list[str]) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"config.yaml cannot be read: {error}")
        return {}
    return config if isinstance(config, Mapping) else {}


def _read_result(layout: RunLayout, notes: list[str]) -> Mapping[str, Any] | None:
    try:
        return read_result(layout)
    except (OSError, ValueError) as error:
        notes.append(f"result.json cannot be read: {error}")
        return None


def _read_starts(layout: RunLayout, notes: list[str]) -> Iterator[tuple[int, StartRecord]]:
    """Those that have recorded where they start from: others have not trained."""
    for number in layout.incarnation_numbers():
        path = layout.incarnation(number).start
        try:
            yield number, StartRecord.of(number, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{_within(layout, path)} cannot be read ({error}): its steps are left out")


def _read_rows(layout: RunLayout, number: int, notes: list[str]) -> Iterator[Row]:
    """The lines of metrics.jsonl; one that is cut short, as a crash leaves it, is passed over."""
    path = layout.incarnation(number).metrics
    num_damaged = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    if isinstance(row["step"], int):
                        yield row
                except (ValueError, KeyError, TypeError):
                    num_damaged += 1
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{_within(layout, path)} cannot be read: {error.strerror}")
    if num_damaged:
        notes.append(f"{_within(layout, path)}: {num_damaged} damaged lines are left out")


def _read_summary(layout: RunLayout, line: list[Segment]) -> tuple[Mapping[str, str], int | None]:
    for segment in reversed(line):
        try:
            text = layout.incarnation(segment.start).summary.read_text(encoding="utf-8")
            summary = json.loads(text)
            rows = {str(name): str(words) for name, words in summary["rows"].items()}
            return rows, int(summary["totalSteps"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a start that ended before it had one, or an older version's
    return {}, None


def _read_evaluations(layout: RunLayout, run: RunRecord) -> None:
    """Scores of the line; that of step 0 may be any start's, since nothing changes it."""
    found: dict[int, tuple[Row, Path]] = {}
    everyone = [Segment(number, 0, 0) for number in run.starts]
    for segment in [*everyone, *run.line]:
        folder = layout.incarnation(segment.start)
        for step in steps_in(folder.path / "eval"):
            # A start that continues from a step may score it once more, before it trains.
            if segment.holds(step) or step == segment.after:
                metrics = _read_metrics(layout, folder.evaluation(step), run.notes)
                if metrics is not None:
                    found[step] = metrics, folder.evaluation(step)
    run.evaluations = [found[step][0] for step in sorted(found)]
    if found:
        run.after = _read_predictions(layout, found[max(found)][1], run.notes)
    if 0 in found and len(found) > 1:
        before = _read_predictions(layout, found[0][1], run.notes)
        run.before = {prediction.sample: prediction for prediction in before}


def _read_metrics(layout: RunLayout, folder: Path, notes: list[str]) -> Row | None:
    """A score; None where the evaluation is not complete, or damaged, which is noted."""
    path = f"{_within(layout, folder)}/metrics.json"
    try:
        metrics = read_metrics(folder)
    except OSError as error:
        _note(notes, f"{path} cannot be read: {error.strerror}")
        return None
    if not metrics:
        return None
    if not _is_score(metrics):
        _note(notes, f"{path} is not that of a score and left out")
        return None
    return metrics


def _is_score(metrics: Row) -> bool:
    details, baseline = metrics.get("details", {}), metrics.get("baseline")
    is_named = isinstance(metrics.get("metric"), str) and isinstance(metrics.get("step"), int)
    is_whole = isinstance(details, Mapping) and all(map(_is_estimate, [metrics, *details.values()]))
    return is_named and is_whole and (baseline is None or is_number(baseline))


def _is_estimate(found: object) -> bool:
    """Whether this is a number with its interval."""
    return isinstance(found, Mapping) and all(is_number(found.get(name)) for name in ("value", "low", "high"))


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a file is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE


def _note(notes: list[str], line: str) -> None:
    """Add a line, once: of a run with several starts the same file may be looked at twice."""
    if line not in notes:
        notes.append(line)


def _read_predictions(layout: RunLayout, folder: Path, notes: list[str]) -> list[Prediction]:
    try:
        return read_predictions(folder)
    except (OSError, KeyError, TypeError, ValueError) as error:
        notes.append(f"{_within(layout, folder)}/predictions.jsonl cannot be read: {error}")
        return []
