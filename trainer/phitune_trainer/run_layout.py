"""Where everything of a run lies on the volume.

One place for these paths, because people, the operator and the trainer all rely on them::

    <workspace>/runs/<namespace>/<job>/<uid8>/       one run
        config.yaml  data.json  result.json  export/{adapter,merged}/
        incarnations/0001/                           one start of it
            start.json  metrics.jsonl  logs/rank-0.log
            checkpoints/step-00000200/
            eval/step-00000200/{metrics.json,predictions.jsonl}
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.errors import writing_to

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
    def checkpoints(self) -> Path:
        """One folder for each checkpoint."""
        return self.path / "checkpoints"

    def rank_log(self, rank: int) -> Path:
        """What a rank printed."""
        return self.path / "logs" / f"rank-{rank}.log"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / step_name(step)

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
    def result(self) -> Path:
        """Written when the run is complete."""
        return self.path / "result.json"

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
    """Write a small file so that a reader, or a crash, sees all of it or the old one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing_to(path):
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
