"""A checkpoint is checked by all ranks together: each file once, and no rank waits for another in vain."""

import errno
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.ranks import training
from harness.tiny_run import OneRank
from phitune_trainer.checkpoint import files, waiting
from phitune_trainer.checkpoint.check_together import check_together
from phitune_trainer.checkpoint.files import DamagedCheckpoint, seal, write_state
from phitune_trainer.checkpoint.waiting import wait_for_all
from phitune_trainer.engine import Fragment
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError, VolumeStalled
from phitune_trainer.exit_codes import DONE
from phitune_trainer.run_layout import RunLayout, steps_in

ADAPTERS = {"method": "lora", "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "vision": False}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A weight of 40 elements, written by four ranks."""
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    parts = [[Fragment("weight", "a", 10 * rank, torch.arange(10.0))] for rank in range(4)]
    states = [write_state(folder, rank, part, lambda size: None) for rank, part in enumerate(parts)]
    seal(folder, {"step": 1}, states)
    return folder


def checked(folder: Path, world: World) -> tuple[list[str], tuple[int, int], str | None]:
    """The files that this rank read, the last progress that it was told, and the damage."""
    damage_of, mine, told = files._damage_of, [], [(0, 0)]

    def noted(folder: Path, file: Any, on_bytes: Any) -> str | None:
        mine.append(file.name)
        found = damage_of(folder, file, on_bytes)
        time.sleep(0.5)  # so that progress is told between
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_damage_of", noted)
        try:
            check_together(world, folder, lambda num_read, total: told.append((num_read, total)))
        except DamagedCheckpoint as problem:
            return mine, told[-1], str(problem)
    return mine, told[-1], None


def test_ranks_share_the_files_and_all_learn_what_is_damaged(checkpoint: Path, in_ranks: Any) -> None:
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "manifest.json")
    num_bytes = sum((checkpoint / name).stat().st_size for name in names)
    for damaged in (None, "state-00002.safetensors"):
        if damaged is not None:
            content = bytearray((checkpoint / damaged).read_bytes())
            content[-1] ^= 1
            (checkpoint / damaged).write_bytes(content)
        found = in_ranks(3, lambda world: checked(checkpoint, world))
        assert sorted(name for mine, _, _ in found for name in mine) == names
        assert all(1 <= len(mine) <= 2 for mine, _, _ in found)
        assert {told for _, told, _ in found} == {(num_bytes, num_bytes)}
        said = damaged and f"{checkpoint / damaged} is not what was written (SHA-256 differs)"
        assert {problem for _, _, problem in found} == {said}


def test_a_damaged_manifest_is_told_to_all(checkpoint: Path, in_ranks: Any) -> None:
    (checkpoint / "manifest.json").write_text("{}")
    for mine, _, problem in in_ranks(2, lambda world: checked(checkpoint, world)):
        assert mine == []
        assert problem is not None
        assert problem.startswith(f"{checkpoint / 'manifest.json'}: ")


def test_a_part_that_one_rank_may_not_read_is_told_to_all(checkpoint: Path, in_ranks: Any) -> None:
    def run(world: World) -> str:
        def refuse(folder: Path, file: Any, on_bytes: Any) -> None:
            if file.name == "state-00001.safetensors":
                raise PermissionError(errno.EACCES, "Permission denied", str(folder / file.name))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_damage_of", refuse)
            with pytest.raises(UserError) as refused:
                check_together(replace(world, volume=checkpoint), checkpoint, lambda num_read, total: None)
        return str(refused.value)

    [first, second] = in_ranks(2, run)
    assert first == second
    assert "permission denied" in first


def test_a_volume_that_gives_nothing_for_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LONGEST_STANDSTILL_SECONDS", 0.3)
    never: Future[None] = Future()
    with pytest.raises(VolumeStalled, match=r"nothing of it for 0 minutes"):
        wait_for_all(
            OneRank(0, 1, torch.device("cpu")),
            never,
            lambda: (5, 10),
            lambda done, total: None,
            stalled="the volume has given nothing of it",
        )


@pytest.mark.slow
def test_a_start_that_checks_for_longer_than_ranks_are_waited_for_says_how_far_it_is_and_goes_on(
    make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        **ADAPTERS,
        training={"maxSteps": 2, "globalBatchSize": 4, "microBatchSize": 2, "warmupSteps": 0},
        world={"processesPerNode": 2},
        checkpoint={"everySteps": 1, "keep": 9},
    )
    with training(config) as gang:
        assert gang.wait() == [DONE, DONE]
    layout = RunLayout(config.run_dir)
    layout.result.unlink()
    damage_of = files._damage_of

    def slow(*arguments: Any) -> str | None:
        time.sleep(7)
        return damage_of(*arguments)

    monkeypatch.setattr(files, "_damage_of", slow)
    capfd.readouterr()
    with training(config, PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="4") as gang:
        assert gang.wait() == [DONE, DONE]
    said = capfd.readouterr().out
    assert "checking a checkpoint: 0.0 of 0.0 GiB" in said
    assert "continues from step 2, saved by incarnation 1" in said
    assert steps_in(layout.incarnation(1).checkpoints) == [1, 2]
