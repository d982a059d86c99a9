"""Saving and restoring a run's state, all ranks together."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phitune_trainer.checkpoint.files import (
    DamagedCheckpoint,
    StateReader,
    check,
    read_trainer,
    seal,
    write_state,
)
from phitune_trainer.engine import Engine
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.incarnation import (
    Origin,
    choose_origin,
    claim,
    record_start,
    refuse_if_superseded,
    retire_old_checkpoints,
)
from phitune_trainer.run_layout import IncarnationFolder, RunLayout, step_name, sync_folder


@dataclass(frozen=True)
class Start:
    """One start of a run: its folder, and where it continues."""

    folder: IncarnationFolder
    origin: Origin | None
    passed_over: list[str]
    """What was wrong with newer checkpoints that are not used."""

    @property
    def step(self) -> int:
        """Steps done when it starts."""
        return self.origin.step if self.origin else 0


def begin(layout: RunLayout, world: World, attempt: int) -> Start:
    """Take a number and choose the checkpoint to continue from, the same on all ranks."""

    def first() -> Start:
        folder = claim(layout)
        origin, passed_over = choose_origin(layout, folder.number, check, DamagedCheckpoint)
        record_start(folder, origin, attempt)
        return Start(folder, origin, passed_over)

    return world.from_first(first)


def restore(layout: RunLayout, origin: Origin, engine: Engine) -> None:
    """Give the engine the state of a checkpoint, whatever number of ranks wrote it."""
    folder = layout.incarnation(origin.incarnation).checkpoint(origin.step)
    read = StateReader(folder)
    if (saved := read.parameters()) != (wanted := set(engine.parameters)):
        differing = sorted(saved ^ wanted)
        raise UserError(
            f"{folder} was saved by a run that trains other parameters ({len(differing)} differ, such as "
            f"{differing[0]}): the method or the base model has changed; start a new run instead"
        )
    engine.restore(read, read_trainer(folder)["step"])


def describe(layout: RunLayout, saved: Origin) -> dict[str, Any]:
    """A checkpoint as people are told of it: step, path on the volume, time."""
    path = layout.incarnation(saved.incarnation).checkpoint(saved.step)
    time = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {
        "step": saved.step,
        "path": layout.on_volume(path),
        "time": time.replace("+00:00", "Z"),
    }


class Saver:
    """Writes this start's checkpoints and removes its old ones."""

    def __init__(self, layout: RunLayout, start: Start, world: World, keep: int) -> None:
        self._layout = layout
        self._folder = start.folder
        self._world = world
        self._keep = keep
        self.last = describe(layout, start.origin) if start.origin else None
        """The newest checkpoint of this run as people are told of it: step, path on the volume, time."""

    def save(self, step: int, engine: Engine, trainer: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`.

        UserError where the volume does not take it: nothing half-written stays, older ones are untouched.
        Superseded where a newer start of this run exists.
        """
        path = self._folder.checkpoint(step)
        if self.last is not None and self.last["step"] == step:
            return path
        aside = path.with_name(f".partial-{step_name(step)}")
        try:
            self._world.from_first(lambda: self._open(aside))
            self._world.together(lambda: write_state(aside, self._world.rank, engine.fragments()))
            self._world.from_first(lambda: self._publish(aside, path, {**trainer, "step": step}))
        except UserError:
            if self._world.is_first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        self.last = describe(self._layout, Origin(self._folder.number, step))
        return path

    def _open(self, aside: Path) -> None:
        refuse_if_superseded(self._layout, self._folder)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    def _publish(self, aside: Path, path: Path, trainer: dict[str, Any]) -> None:
        seal(aside, trainer)
        aside.rename(path)
        sync_folder(path.parent)
        retire_old_checkpoints(self._layout, self._folder, self._keep)
