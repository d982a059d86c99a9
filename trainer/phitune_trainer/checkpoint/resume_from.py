"""`resumeFrom`: a new run that begins with the weights of another run on the same volume.

A step's folder is taken as it is. Of a run's folder it is the newest good checkpoint of its line, the same
that the run itself would continue from. What is taken is the weights, or the adapters; optimizer, schedule
and step count begin anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from phitune_trainer.checkpoint.files import DamagedCheckpoint, read_trainer
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.incarnation import Origin, first_good, line_before
from phitune_trainer.run_layout import RunLayout, step_of
from phitune_trainer.same_run import as_read_now, changed_keys, plain

MUST_AGREE = ("model.", "method", "freezeVision", "lora.rank", "lora.alpha", "lora.vision")
"""What gives the saved weights their meaning; everything else of the two runs may differ."""


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run, found whole."""

    folder: Path
    step: int
    passed_over: list[str]
    """What was wrong with newer checkpoints of that run."""


def find_source(config: TrainConfig, world: World, check: Callable[[Path], None]) -> Source | None:
    """The checkpoint that `resumeFrom` names; None where the config names none. Collective, as `check` is.

    UserError where there is none, where it is damaged, or where it is one of another model or method.
    """
    if config.resume_from is None:
        return None
    folder = Path(config.run.workspace, config.resume_from)
    passed_over: list[str] = []
    if step_of(folder) is None:
        folder, passed_over = _newest_of_run(folder, world, check)
    else:
        try:
            check(folder)
        except DamagedCheckpoint as problem:
            raise UserError(f"resumeFrom: {problem}; name another checkpoint") from problem
    step = world.from_first(lambda: _step_of_same_model(config, folder))
    return Source(folder, step, passed_over)


def in_turn(world: World, origins: Iterator[Origin]) -> Iterator[Origin]:
    """What rank 0 goes through, on all ranks, one at a time: volumes may show others older folders."""
    while (origin := world.from_first(lambda: next(origins, None))) is not None:
        yield origin


def _newest_of_run(folder: Path, world: World, check: Callable[[Path], None]) -> tuple[Path, list[str]]:
    layout = RunLayout(folder)
    numbers = world.from_first(layout.incarnation_numbers)
    if not numbers:
        raise UserError(
            f"resumeFrom: {folder} is neither the folder of a run (with incarnations/) nor of one of its "
            f"checkpoints (step-00000200). An export/merged is a base model: name it as model.path"
        )
    line = in_turn(world, line_before(layout, numbers[-1] + 1))
    origin, passed_over = first_good(layout, line, check, DamagedCheckpoint)
    if origin is None:
        damaged = "".join(f"; {problem}" for problem in passed_over)
        raise UserError(f"resumeFrom: {folder} has no checkpoint that can be used{damaged}")
    return layout.incarnation(origin.incarnation).checkpoint(origin.step), passed_over


def _step_of_same_model(config: TrainConfig, folder: Path) -> int:
    trainer = read_trainer(folder)
    theirs, ours = as_read_now(trainer["config"]), plain(config)
    keys = MUST_AGREE if config.model.init is None else (*MUST_AGREE, "training.seed")
    if changed := [line for line in changed_keys(theirs, ours) if line.startswith(keys)]:
        raise UserError(
            f"resumeFrom: the weights of {folder} stand on another model or method; make these keys as they "
            f"were there (to train a finished run's export/merged another way, name it as model.path):\n"
            + "\n".join(changed)
        )
    step: int = trainer["step"]
    return step
