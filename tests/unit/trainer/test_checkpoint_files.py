"""A checkpoint's files: damage is noticed and named, and any number of ranks reads what any other wrote."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phitune_trainer.checkpoint.files import (
    DamagedCheckpoint,
    StateReader,
    check,
    read_trainer,
    seal,
    write_state,
)
from phitune_trainer.engine import Fragment

WEIGHT = torch.arange(10, dtype=torch.float32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A weight of ten elements, written by three ranks, of which the last has nothing of it."""
    write_state(tmp_path, 0, [Fragment("weight", "a.b", 0, WEIGHT[:3])])
    write_state(tmp_path, 1, [Fragment("weight", "a.b", 3, WEIGHT[3:])])
    write_state(tmp_path, 2, [])
    seal(tmp_path, {"step": 7})
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
        pytest.param("manifest.json", Path.unlink, "No such file", id="missing manifest"),
        pytest.param("manifest.json", cut_short, "Expecting", id="manifest cut short"),
    ],
)
def test_damage_is_named(checkpoint: Path, file: str, damage: Callable[[Path], None], message: str) -> None:
    damage(checkpoint / file)
    with pytest.raises(DamagedCheckpoint, match=f"{file}.*{message}"):
        check(checkpoint)
