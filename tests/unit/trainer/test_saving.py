"""A checkpoint that is written while training goes on, is waited for, and may fail without ending it."""

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.file_operations import Operation, watching
from phitune_trainer.checkpoint.saver import Saver
from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.engine.world import World
from phitune_trainer.errors import Interrupted, UserError, VolumeFull
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout, steps_in
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": False}}


class OnRank:
    """One rank of a run, whose writes to the volume a test can hold up or refuse."""

    def __init__(self, world: World, config: TrainConfig) -> None:
        reports = Path(config.run.workspace, "reports")
        reports.mkdir(exist_ok=True)
        self.config = config
        self.world = World(world.rank, world.size, world.device, Path(config.run.workspace))
        self.progress = Progress(attempt=1)
        self.narrator = Narrator(world.rank, reports, self.progress)
        self.stop = StopRequest()

    def run(self, before: Callable[[Operation], None] = lambda operation: None) -> str:
        with watching(Path(self.config.run.workspace), before):
            return run_rank(self.config, self.world, self.narrator, self.progress, self.stop, InProcess())

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 100
        while self.narrator.last_step < step:
            assert time.monotonic() < deadline, f"training waits at step {self.narrator.last_step}"
            time.sleep(0.01)


def is_state_of(step: int, operation: Operation) -> bool:
    return operation.kind == "write" and f"step-{step:08d}/state-" in operation.path


def losses(config: TrainConfig, incarnation: int) -> dict[int, float]:
    metrics = RunLayout(config.run_dir).incarnation(incarnation).metrics
    rows = map(json.loads, metrics.read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.parametrize(
    "method", [pytest.param({}, id="zero2"), pytest.param(LORA, id="lora", marks=pytest.mark.slow)]
)
def test_steps_taken_while_a_checkpoint_is_written_are_no_part_of_it(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**method, training={"maxSteps": 6}, checkpoint={"everySteps": 3, "keep": 9})

    def hold_up(world: World) -> None:
        rank = OnRank(world, config)
        rank.run(lambda operation: rank.wait_for_step(5) if is_state_of(3, operation) else None)

    in_ranks(1, hold_up)
    layout = RunLayout(config.run_dir)
    layout.result.unlink()
    layout.incarnation(1).checkpoint(6).rename(layout.path / "elsewhere")
    in_ranks(1, lambda world: OnRank(world, config).run())
    first = losses(config, 1)
    assert losses(config, 2) == {step: first[step] for step in (4, 5, 6)}


@pytest.mark.slow
def test_a_request_to_stop_while_a_checkpoint_is_written_waits_for_it_and_saves_the_step_reached(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**LORA, training={"maxSteps": 1000}, checkpoint={"everySteps": 2, "keep": 9})

    def stop_while_saving(world: World) -> str:
        rank = OnRank(world, config)

        def before(operation: Operation) -> None:
            if is_state_of(2, operation):
                rank.wait_for_step(3)
                rank.stop.requested = True
                time.sleep(0.3)

        with pytest.raises(Interrupted) as end:
            rank.run(before)
        assert rank.progress.snapshot()["lastCheckpoint"]["step"] == rank.narrator.last_step
        return str(end.value)

    [message] = in_ranks(1, stop_while_saving)
    saved = steps_in(RunLayout(config.run_dir).incarnation(1).checkpoints)
    assert saved[0] == 2
    assert message.startswith(f"stopped after step {saved[-1]} of 1000; saved")


def test_when_the_volume_refuses_one_ranks_part_all_go_on_say_so_and_save_the_next(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(
        **LORA,
        training={"maxSteps": 3},
        world={"processesPerNode": 2},
        checkpoint={"everySteps": 1, "keep": 9},
    )

    def refuse(world: World) -> list[str]:
        rank = OnRank(world, config)

        def before(operation: Operation) -> None:
            if is_state_of(2, operation) and world.rank == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

        rank.run(before)
        report = next(Path(config.run.workspace, "reports").glob(f"*{world.rank}*"))
        trouble: list[str] = json.loads(report.read_text())["trouble"]
        return trouble

    folder = RunLayout(config.run_dir).incarnation(1)
    for trouble in in_ranks(2, refuse):
        [line] = trouble
        assert line.startswith(f"no checkpoint of step 2: cannot write {folder.half_written(2)}")
        assert line.endswith(
            "enlarge it, or lower checkpoint.keep; training goes on, and the next save tries again"
        )
    assert steps_in(folder.checkpoints) == [1, 3]
    assert folder.all_half_written() == []


def test_a_run_whose_last_checkpoint_the_volume_refuses_ends_with_the_remedy(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**LORA, training={"maxSteps": 2}, checkpoint={"everySteps": 1, "keep": 9})

    def refuse(world: World) -> str:
        def before(operation: Operation) -> None:
            if is_state_of(2, operation):
                raise OSError(errno.EDQUOT, "Disk quota exceeded")

        with pytest.raises(UserError) as end:
            OnRank(world, config).run(before)
        return str(end.value)

    assert "the volume's quota is used up; raise it, or lower checkpoint.keep" in in_ranks(1, refuse)[0]
    assert steps_in(RunLayout(config.run_dir).incarnation(1).checkpoints) == [1]


@pytest.mark.slow
def test_a_run_that_is_stopped_while_the_volume_is_full_ends_with_the_remedy_and_goes_on_from_what_is_saved(
    make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**LORA, training={"maxSteps": 6}, checkpoint={"everySteps": 2, "keep": 9})

    def stop_on_a_full_volume(world: World) -> str:
        rank = OnRank(world, config)

        def before(operation: Operation) -> None:
            if is_state_of(2, operation):
                rank.wait_for_step(3)
                rank.stop.requested = True
            elif operation.kind == "write" and "/state-" in operation.path:
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(VolumeFull) as end:
            rank.run(before)
        assert rank.progress.snapshot()["lastCheckpoint"]["step"] == 2
        return str(end.value)

    [message] = in_ranks(1, stop_on_a_full_volume)
    assert "the volume is full; enlarge it, or lower checkpoint.keep" in message
    folder = RunLayout(config.run_dir).incarnation(1)
    assert steps_in(folder.checkpoints) == [2]
    assert folder.all_half_written() == []
    in_ranks(1, lambda world: OnRank(world, config).run())
    first, second = losses(config, 1), losses(config, 2)
    assert list(second) == [3, 4, 5, 6]
    assert second[3] == first[3]


@pytest.mark.slow
def test_the_copy_of_the_state_is_in_no_steps_time(make_config: Any, in_ranks: Any) -> None:
    config = make_config(**LORA, training={"maxSteps": 3}, checkpoint={"everySteps": 1})

    def copy_slowly(world: World) -> None:
        begin = Saver.begin

        def slow(self: Saver, *args: Any) -> None:
            time.sleep(5)
            begin(self, *args)

        Saver.begin = slow  # type: ignore[method-assign]
        OnRank(world, config).run()

    in_ranks(1, copy_slowly)
    lines = RunLayout(config.run_dir).incarnation(1).metrics.read_text().splitlines()
    assert max(json.loads(line)["seconds"] for line in lines[1:]) < 5
