"""Where everything of a run lies on the volume.

One place for these paths, because people, the operator and the trainer all rely on them::

    <workspace>/runs/<namespace>/<job>/<uid8>/       one run
        config.yaml  data.json  micro-batch.json  result.json  report.html
        export/{adapter,merged}/
        incarnations/0001/                           one start of it
            start.json  summary.json  metrics.jsonl  tensorboard/  logs/rank-0.log
            checkpoints/step-00000200/
            eval/step-00000200/{metrics.json,predictions.jsonl}
"""

import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.errors import writing_to

_HALF_WRITTEN = ".partial-"
_STEP = re.compile(r"step-(\d{8,})")


def step_name(step: int) -> str:
    """The folder name of a step: eight digits or more, so that names sort as steps do."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that a folder is named after, or None for any other name (a half-written one, say)."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def steps_in(folder: Path) -> list[int]:
    """The steps with a folder under `folder`, lowest first; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(step for path in folder.iterdir() if (step := step_of(path)) is not None)


@dataclass(frozen=True)
class IncarnationFolder:
    """The files that one start of a run writes; no other start ever writes here."""

    path: Path

    @property
    def number(self) -> int:
        """Which start of the run this is, from 1."""
        return int(self.path.name)

    @property
    def start(self) -> Path:
        """Says what this start continues from."""
        return self.path / "start.json"

    @property
    def metrics(self) -> Path:
        """A line for each step."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same for TensorBoard, and the scores."""
        return self.path / "tensorboard"

    @property
    def summary(self) -> Path:
        """The start-up summary: what was chosen, and why."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """One folder for each checkpoint."""
        return self.path / "checkpoints"

    def rank_log(self, rank: int) -> Path:
        """What a rank printed."""
        return self.path / "logs" / f"rank-{rank}.log"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / step_name(step)

    def half_written(self, step: int) -> Path:
        """The checkpoint of a step until it is complete."""
        return self.checkpoints / f"{_HALF_WRITTEN}{step_name(step)}"

    def all_half_written(self) -> list[Path]:
        """What there is of checkpoints that are not complete."""
        return sorted(self.checkpoints.glob(f"{_HALF_WRITTEN}*"))

    def evaluation(self, step: int) -> Path:
        """Scores and predictions of a step."""
        return self.path / "eval" / step_name(step)


@dataclass(frozen=True)
class RunLayout:
    """The files of one run; `path` is the run's own folder (`TrainConfig.run_dir`)."""

    path: Path

    @property
    def config(self) -> Path:
        """The config of the run's first start."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """What tells the run's training data from changed data."""
        return self.path / "data.json"

    @property
    def micro_batch(self) -> Path:
        """Written when the micro-batch did not fit into a device's memory: the one to use instead."""
        return self.path / "micro-batch.json"

    @property
    def result(self) -> Path:
        """Written when the run is complete."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The run as a page for people."""
        return self.path / "report.html"

    @property
    def export(self) -> Path:
        """What the run leaves for others to use."""
        return self.path / "export"

    @property
    def incarnations(self) -> Path:
        """One folder for each start."""
        return self.path / "incarnations"

    @property
    def volume(self) -> Path:
        """The volume's root: `<workspace>`, four folders up."""
        return self.path.parents[3]

    def on_volume(self, path: Path) -> str:
        """A path as users are told of it: relative to the volume's root."""
        return str(path.relative_to(self.volume))

    def incarnation(self, number: int) -> IncarnationFolder:
        """The folder of one start."""
        return IncarnationFolder(self.incarnations / f"{number:04d}")

    def incarnation_numbers(self) -> list[int]:
        """Every number taken so far, lowest first."""
        if not self.incarnations.is_dir():
            return []
        return sorted(int(path.name) for path in self.incarnations.iterdir() if path.name.isdecimal())


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader, or a crash, sees all of it or the old one.

    Two pods may write the same file at once: the last one's stays.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with writing_to(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        sync_folder(path.parent)


def make_folders(path: Path) -> None:
    """Make a folder and those above it that are missing, so that they survive a power cut.

    What is synced inside a folder is lost all the same where the folder's own name was not.
    """
    if path.is_dir():
        return
    make_folders(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with writing_to(folder):
            os.fsync(handle)
    finally:
        os.close(handle)
