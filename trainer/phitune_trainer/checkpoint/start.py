"""Where a start of a run begins: at the newest good checkpoint of its line, at another run's, or at none."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from phitune_trainer.checkpoint.check_together import check_together
from phitune_trainer.checkpoint.files import DamagedCheckpoint, StateReader, read_trainer
from phitune_trainer.checkpoint.resume_from import Source, find_source, in_turn
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine import Engine
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.incarnation import Origin, claim, first_good, line_before, record_start
from phitune_trainer.run_layout import IncarnationFolder, RunLayout


@dataclass(frozen=True)
class Start:
    """One start of a run: its folder, and where it continues."""

    folder: IncarnationFolder
    origin: Origin | None
    passed_over: list[str]
    """What was wrong with newer checkpoints that are not used."""
    source: Source | None = None
    """The other run's checkpoint whose weights this one begins with; None once it has its own."""

    @property
    def step(self) -> int:
        """Steps done when it starts."""
        return self.origin.step if self.origin else 0


def begin(
    config: TrainConfig,
    world: World,
    attempt: int,
    on_check: Callable[[int, int], None] = lambda _read, _total: None,
) -> Start:
    """Take a number and choose the checkpoint to continue from, the same on all ranks; collective.

    `on_check` is told how many bytes of a checkpoint are read to check it, and of how many, over all ranks.
    UserError where the config names another run's checkpoint that cannot be used.
    """

    def check(folder: Path) -> None:
        check_together(world, folder, on_check)

    layout = RunLayout(config.run_dir)
    folder = world.from_first(lambda: claim(layout))
    line = in_turn(world, line_before(layout, folder.number))
    origin, passed_over = first_good(layout, line, check, DamagedCheckpoint)
    source = find_source(config, world, check) if origin is None else None
    world.from_first(lambda: record_start(folder, origin, attempt))
    return Start(folder, origin, passed_over + (source.passed_over if source else []), source)


def restore(layout: RunLayout, start: Start, engine: Engine) -> None:
    """Give the engine the state that the run starts with, whatever number of ranks saved it.

    UserError where it was saved over other parameters than those that are trained here.
    """
    if start.origin is not None:
        folder = layout.incarnation(start.origin.incarnation).checkpoint(start.origin.step)
        engine.restore(_open(folder, engine), read_trainer(folder)["engine"])
    elif start.source is not None:
        read = _open(start.source.folder, engine)
        engine.restore(_only_weights(read), engine.scalars())


def describe(layout: RunLayout, saved: Origin) -> dict[str, Any]:
    """A checkpoint as people are told of it: step, path on the volume, time."""
    path = layout.incarnation(saved.incarnation).checkpoint(saved.step)
    time = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {
        "step": saved.step,
        "path": layout.on_volume(path),
        "time": time.replace("+00:00", "Z"),
    }


def _open(folder: Path, engine: Engine) -> StateReader:
    read = StateReader(folder)
    saved = {name: read.num_elements(name) for name in read.parameters()}
    wanted = {name: parameter.numel() for name, parameter in engine.parameters.items()}
    if differing := sorted(name for name in saved | wanted if saved.get(name) != wanted.get(name)):
        name = differing[0]
        raise UserError(
            f"{folder} was saved by a run that trains other parameters ({len(differing)} differ, such as "
            f"{name}: {saved.get(name, 'no')} elements there, {wanted.get(name, 'no')} here): the method or "
            f"the base model is another one; start a new run without it"
        )
    return read


def _only_weights(read: StateReader) -> Callable[[str, str, int, int], torch.Tensor]:
    """The saved weights, beside the optimizer state of a run that has not begun."""

    def stretch(kind: str, name: str, start: int, end: int) -> torch.Tensor:
        return read(kind, name, start, end) if kind == "weight" else torch.zeros(end - start)

    return stretch
