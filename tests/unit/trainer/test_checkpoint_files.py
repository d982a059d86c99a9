"""A checkpoint's files: damage is noticed and named, and any number of ranks reads what any other wrote."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phitune_trainer.checkpoint import files
from phitune_trainer.checkpoint.files import (
    DamagedCheckpoint,
    StateReader,
    check,
    is_whole,
    read_trainer,
    seal,
    write_state,
)
from phitune_trainer.engine import Fragment
from phitune_trainer.errors import UserError

WEIGHT = torch.arange(10, dtype=torch.float32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A weight of ten elements, written by three ranks, of which the last has nothing of it."""
    parts = [[Fragment("weight", "a.b", 0, WEIGHT[:3])], [Fragment("weight", "a.b", 3, WEIGHT[3:])], []]
    states = [write_state(tmp_path, rank, part, lambda size: None) for rank, part in enumerate(parts)]
    seal(tmp_path, {"step": 7}, states)
    return tmp_path


def test_any_stretch_is_read_from_however_many_files_it_takes(checkpoint: Path) -> None:
    check(checkpoint)
    read = StateReader(checkpoint)
    assert read_trainer(checkpoint)["step"] == 7
    assert read.parameters() == {"a.b"}
    for start, end in [(0, 10), (2, 5), (0, 3), (3, 10), (9, 10)]:
        assert torch.equal(read("weight", "a.b", start, end), WEIGHT[start:end])


def test_what_was_not_saved_is_not_made_up(checkpoint: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"10 of 12 elements \[0, 12\) of weight of a\.b"):
        StateReader(checkpoint)("weight", "a.b", 0, 12)


def test_a_flipped_bit_of_any_byte_and_any_missing_end_is_noticed(checkpoint: Path) -> None:
    num_bytes = 0
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        num_bytes += len(content)
        for number, byte in enumerate(content):
            damaged = byte ^ (1 << number % 8)
            path.write_bytes(content[:number] + bytes([damaged]) + content[number + 1 :])
            with pytest.raises(DamagedCheckpoint, match=str(checkpoint)):
                check(checkpoint)
            path.write_bytes(content[:number])
            with pytest.raises(DamagedCheckpoint, match=path.name):
                check(checkpoint)
            assert not is_whole(checkpoint)
        path.write_bytes(content)
    check(checkpoint)
    assert is_whole(checkpoint)
    assert num_bytes > 500


def test_a_checkpoint_of_another_version_ends_the_run_rather_than_being_passed_over(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "VERSION", 99)
    with pytest.raises(UserError, match=r"manifest.json has version 2, this Phitune reads 99"):
        check(checkpoint)


def test_safetensors_itself_reads_what_is_written(checkpoint: Path) -> None:
    assert torch.equal(load_file(checkpoint / "state-00001.safetensors")["weight|a.b|3"], WEIGHT[3:])
    assert load_file(checkpoint / "state-00002.safetensors") == {}


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        pytest.param("state-00001.safetensors", flip_bit, "is not what was written", id="flipped bit"),
        pytest.param("state-00000.safetensors", cut_short, "91 bytes, 92 were written", id="cut short"),
        pytest.param("state-00001.safetensors", Path.unlink, "is missing", id="missing state"),
        pytest.param("trainer.json", flip_bit, "is not what was written", id="trainer.json"),
        pytest.param("manifest.json", Path.unlink, "is missing", id="missing manifest"),
        pytest.param("manifest.json", cut_short, "Expecting", id="manifest cut short"),
    ],
)
def test_damage_is_named(checkpoint: Path, file: str, damage: Callable[[Path], None], message: str) -> None:
    damage(checkpoint / file)
    with pytest.raises(DamagedCheckpoint, match=f"{file}.*{message}"):
        check(checkpoint)


@pytest.mark.parametrize("look", [check, is_whole])
def test_a_volume_that_fails_to_give_the_manifest_does_not_condemn_the_checkpoint(
    checkpoint: Path, look: Callable[[Path], object]
) -> None:
    """A process's own memory has no first byte: the kernel answers with an error of input and output."""
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "manifest.json").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"manifest\.json") as failed:
        look(checkpoint)
    assert failed.value.errno == errno.EIO
