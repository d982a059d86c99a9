"""What a frozen vision part makes of a picture is computed once, and changes no number."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from harness.seen_pictures import run_counting_pictures
from harness.tiny_models import picture, sample, small_model
from phitune_trainer import kept_pictures
from phitune_trainer.batch_flops import amounts_in
from phitune_trainer.build import build_engine, checkpoint_copy_bytes, load_method
from phitune_trainer.checkpoint.snapshot import Snapshot
from phitune_trainer.engine.world import World
from phitune_trainer.exit_codes import USER_ERROR
from phitune_trainer.kept_pictures import KeptPictures, choose_kept_pictures
from phitune_trainer.model import Batch, Sample, collate
from phitune_trainer.model.vision import VisionEmbedding
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.shared_folder import PREFIX, SHARED_MEMORY, remove_unheld

torch.set_num_threads(1)

PLENTY = 2**30
KEPT = f"{PREFIX}1-00000001-1"
ASKED: dict[str, Any] = {
    "start": "00000000-1",
    "come_again": True,
    "num_crops": 4,
    "ranks": 2,
    "reserved": 0,
}
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}
FROZEN = {"method": "full", "freezeVision": True}


def frozen_vision() -> VisionEmbedding:
    vision = small_model().model.vision_embed_tokens
    vision.requires_grad_(False)
    return vision


def pass_of(pictures: KeptPictures, *samples: Sample) -> tuple[Batch, int]:
    """A pass, and how many of its pictures were known before it."""
    batch = pictures.look_up(collate(samples))
    known = sum(rows is not None for rows in batch.embedded)
    return pictures.fill(batch), known


def test_a_picture_is_embedded_once_whatever_it_comes_with(tmp_path: Path) -> None:
    vision = frozen_vision()
    first, second = sample(9, grids=[(1, 2)], seed=1), sample(12, grids=[(2, 1), (1, 2)], seed=2)
    with_same = sample(30, grids=[(1, 2)], seed=1)
    pictures = KeptPictures(vision, tmp_path / KEPT, PLENTY)
    with pictures:
        assert pass_of(pictures, first, second)[1] == 0
        batch, known = pass_of(pictures, second, sample(9), with_same)
        assert known == 3
        expected = vision(batch.pictures)
        assert torch.equal(torch.cat([rows for rows in batch.embedded if rows is not None]), expected)
    assert not (tmp_path / KEPT).exists()


def test_ranks_of_a_pod_find_what_another_one_has_embedded(tmp_path: Path) -> None:
    one, other = (KeptPictures(frozen_vision(), tmp_path / KEPT, PLENTY) for _ in range(2))
    with one, other:
        pass_of(one, sample(9, grids=[(1, 1)], seed=1))
        pass_of(one, sample(9, grids=[(1, 1)], seed=2))  # the first one is written when this one is looked up
        assert pass_of(other, sample(9, grids=[(1, 1)], seed=1))[1] == 1


def test_pictures_of_samples_that_are_scored_are_looked_up_and_kept_as_well(tmp_path: Path) -> None:
    vision = frozen_vision()
    shown = [picture(1, 2, seed=1), picture(2, 1, seed=2)]
    pictures = KeptPictures(vision, tmp_path / KEPT, PLENTY)
    with pictures:
        for _ in range(2):  # embedded, then looked up
            assert all(map(torch.equal, pictures.each(shown, keep=True), vision.each(shown)))
        assert pass_of(pictures, sample(9, grids=[(1, 2)], seed=1))[1] == 1
    assert pictures.each([], keep=True) == ()


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    vision = frozen_vision()
    [size] = {vision([picture(1, 1, seed=seed)]).nbytes for seed in range(3)}
    pictures = KeptPictures(vision, tmp_path / KEPT, 2 * size)
    samples = [sample(9, grids=[(1, 1)], seed=seed) for seed in range(3)]
    with pictures:
        pass_of(pictures, *samples)
        for _ in range(2):
            assert pass_of(pictures, *samples)[1] == 2


def test_a_memory_that_others_fill_ends_the_keeping_and_not_the_run(tmp_path: Path) -> None:
    """/dev/full behaves as a full device does."""
    pictures = KeptPictures(frozen_vision(), tmp_path / KEPT, PLENTY)
    one = sample(9, grids=[(1, 1)], seed=1)
    with pictures:
        [key] = pictures.look_up(collate([one])).picture_keys
        (tmp_path / KEPT / f".{key}-{os.getpid()}").symlink_to("/dev/full")
        pass_of(pictures, one)
        assert pass_of(pictures, one)[1] == 0
        assert pass_of(pictures, one)[1] == 0
        assert list((tmp_path / KEPT).iterdir()) == []


def test_a_pod_whose_memory_others_have_taken_keeps_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = KeptPictures(frozen_vision(), tmp_path / KEPT, PLENTY, least_free=1000)
    one, other = (sample(9, grids=[(1, 1)], seed=seed) for seed in range(2))
    with pictures:
        pass_of(pictures, one)
        assert pass_of(pictures, one)[1] == 1
        monkeypatch.setattr(kept_pictures, "available_memory", lambda: 1000)
        pass_of(pictures, other)
        assert pass_of(pictures, one, other)[1] == 1


def test_a_picture_takes_room_once_however_often_it_comes_up(tmp_path: Path) -> None:
    vision = frozen_vision()
    room = 2 * vision([picture(1, 1, seed=1)]).nbytes
    pictures = KeptPictures(vision, tmp_path / KEPT, room)
    same, other = (sample(9, grids=[(1, 1)], seed=seed) for seed in range(2))
    with pictures:
        pass_of(pictures, same, same, same)
        pass_of(pictures, other)
        assert pass_of(pictures, same, other)[1] == 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: file.write_bytes(b"x" * 40), id="no tensor"),
        pytest.param(lambda file: file.write_bytes(saved(rows=torch.zeros(2, 3))), id="another shape"),
        pytest.param(lambda file: file.write_bytes(saved(other=torch.zeros(2))), id="another name"),
        pytest.param(lambda file: (file.unlink(), file.mkdir()), id="no file"),
    ],
)
def test_a_picture_whose_file_is_damaged_is_embedded_again(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    vision = frozen_vision()
    pictures = KeptPictures(vision, tmp_path / KEPT, PLENTY)
    one = sample(9, grids=[(1, 1)], seed=1)
    with pictures:
        pass_of(pictures, one)
        assert pass_of(pictures, one)[1] == 1
        [file] = (tmp_path / KEPT).iterdir()
        damage(file)
        batch, known = pass_of(pictures, one)
        assert known == 0
        [rows] = batch.embedded
        assert rows is not None
        assert torch.equal(rows, vision(batch.pictures))


def saved(**tensors: torch.Tensor) -> bytes:
    return safetensors.torch.save(tensors)


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda folder: folder.write_text(""), id="a file"),
        pytest.param(lambda folder: folder.mkdir(mode=0o755), id="a folder that others can read"),
        pytest.param(lambda folder: folder.symlink_to(folder.parent / "theirs"), id="a link"),
    ],
)
def test_nothing_is_kept_in_a_folder_that_is_not_ours_alone(
    occupy: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    occupy(tmp_path / KEPT)
    pictures = KeptPictures(frozen_vision(), tmp_path / KEPT, PLENTY)
    one = sample(9, grids=[(1, 1)], seed=1)
    with pictures:
        pass_of(pictures, one)
        assert pass_of(pictures, one)[1] == 0
    assert list((tmp_path / "theirs").iterdir()) == []


def test_memory_that_takes_nothing_ends_the_keeping_and_not_the_run(tmp_path: Path) -> None:
    """A folder that is gone, here, with the place where it was."""
    pictures = KeptPictures(frozen_vision(), tmp_path / "gone" / KEPT, PLENTY)
    one = sample(9, grids=[(1, 1)], seed=1)
    with pictures:
        pass_of(pictures, one)
        assert pass_of(pictures, one)[1] == 0


HOLD = """
import os, sys
from pathlib import Path
from phitune_trainer.shared_folder import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_what_a_rank_holds_stays_until_it_ends_however_it_does(tmp_path: Path) -> None:
    """One of another container too, whose number says nothing here."""
    alive, left = (tmp_path / f"{PREFIX}1-0000000{number}-1" for number in range(2))
    for folder in (alive, left):
        folder.mkdir(mode=0o700)
        (folder / "picture").write_text("")
    command = [sys.executable, "-c", HOLD, str(alive)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"held\n"
        remove_unheld(tmp_path)
        assert alive.exists()
        assert not left.exists()
    assert rank.returncode == 1
    remove_unheld(tmp_path)
    assert not alive.exists()


def test_what_killed_runs_left_is_removed_before_it_is_measured_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"{PREFIX}1-00000000-1"
    left.mkdir(mode=0o700)
    monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(kept_pictures, "available_memory", lambda: 0 if left.exists() else PLENTY)
    assert choose_kept_pictures(frozen_vision(), **ASKED) is not None


def test_a_run_that_keeps_nothing_removes_what_killed_runs_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"{PREFIX}1-00000000-1"
    left.mkdir(mode=0o700)
    monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", tmp_path)
    assert choose_kept_pictures(small_model().model.vision_embed_tokens, **ASKED) is None
    assert not left.exists()


@pytest.mark.slow
def test_when_its_ranks_have_ended_the_launcher_removes_what_they_left(
    make_config: Any, start_pod: Any
) -> None:
    left = SHARED_MEMORY / f"{PREFIX}1-{os.getpid()}-1"
    left.mkdir(mode=0o700)
    pod = start_pod(make_config(data={"path": "nowhere"}))
    assert pod.wait()[0] == USER_ERROR
    assert not left.exists()


def test_what_is_kept_does_not_count_as_work_of_the_vision_part(tmp_path: Path) -> None:
    model = small_model()
    model.model.vision_embed_tokens.requires_grad_(False)
    pictures = KeptPictures(model.model.vision_embed_tokens, tmp_path / KEPT, PLENTY)
    one, other = (sample(9, grids=[(1, 1)], seed=seed) for seed in range(2))
    with pictures:
        pass_of(pictures, one)
        amounts = amounts_in(pictures.look_up(collate([one, other])), model.model_config)
    fresh = amounts_in(collate([other]), model.model_config)
    assert (amounts.crops, amounts.picture_tokens) == (fresh.crops, fresh.picture_tokens)
    assert amounts.tokens == 2 * fresh.tokens


@pytest.mark.parametrize(
    ("changes", "memory", "is_kept"),
    [
        pytest.param({}, PLENTY, True, id="vision is frozen"),
        pytest.param({"come_again": False}, PLENTY, False, id="no picture comes up again"),
        pytest.param({"num_crops": 10**9}, PLENTY, False, id="not even one picture fits"),
        pytest.param({}, 1000, False, id="the pod has no memory left"),
        pytest.param({"reserved": PLENTY}, PLENTY, False, id="checkpoints will take what is left"),
        pytest.param(
            {"vision": small_model().model.vision_embed_tokens}, PLENTY, False, id="vision is trained"
        ),
    ],
)
def test_pictures_are_kept_where_that_saves_work(
    changes: dict[str, Any], is_kept: bool, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(kept_pictures, "available_memory", lambda: memory)
    asked: dict[str, Any] = {"vision": frozen_vision(), **ASKED, **changes}
    assert (choose_kept_pictures(**asked) is not None) is is_kept


@pytest.mark.parametrize("method", [pytest.param(FROZEN, id="zero2"), pytest.param(LORA, id="adapters")])
def test_what_checkpoints_will_copy_is_known_before_the_first(
    method: dict[str, Any], make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**method, world={"processesPerNode": 2})

    def rank(world: World) -> tuple[int, int]:
        chosen = load_method(config, world)
        engine = build_engine(config, chosen, world)
        copied = Snapshot().take(engine.fragments())
        return sum(part.values.nbytes for part in copied), checkpoint_copy_bytes(config, chosen, engine)

    (first, expected), (second, _) = in_ranks(2, rank)
    assert first + second == expected > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param(FROZEN, id="zero2"), pytest.param(LORA, id="adapters")])
def test_a_run_has_the_same_numbers_to_the_bit_with_and_without_kept_pictures(
    method: dict[str, Any], tmp_path: Path, make_config: Any, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of 18 pictures on two ranks that share what is kept."""
    memory = tmp_path / "memory"
    found, seen = [], []
    for uid in ("00000001", "00000002"):
        monkeypatch.setattr(kept_pictures, "SHARED_MEMORY", memory)
        config = make_config(
            **method, run={"uid": uid}, world={"processesPerNode": 2}, training={"maxSteps": 6}
        )
        seen.append(sum(sum(times) for times in in_ranks(2, run_counting_pictures(config))))
        lines = RunLayout(config.run_dir).incarnation(1).metrics.read_text().splitlines()
        found.append([(step["loss"], step["gradNorm"]) for step in map(json.loads, lines)])
        memory.mkdir(exist_ok=True)
    assert found[0] == found[1]
    assert len(found[0]) == 6
    assert seen[0] == 3 * 18
    assert 18 <= seen[1] < seen[0]
    assert list(memory.iterdir()) == []
