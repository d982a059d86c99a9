"""Folders that several processes build at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from phitune_trainer.errors import VolumeFull, volume_problem
from phitune_trainer.folders import building


def test_two_that_replace_one_folder_at_once_never_remove_each_others(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "old").touch()
    with building(out, replace=True) as first:
        (first / "a").write_text("first")
        with building(out, replace=True) as second:
            (second / "a").write_text("second")
        assert [path.name for path in out.iterdir()] == ["a"]
        assert (first / "a").read_text() == "first"
    assert (out / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_volume_that_is_full_when_weights_are_written_is_named_with_its_size_and_the_remedy(
    tmp_path: Path,
) -> None:
    """In the words that safetensors really has for it."""
    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as caught, building(tmp_path / "merged"):
        raise SafetensorError(told)
    problem = volume_problem(caught.value, tmp_path)
    assert isinstance(problem, VolumeFull)
    assert str(problem).startswith(f"cannot write {tmp_path / 'merged'} (")
    assert str(problem).endswith(" are free): the volume is full; enlarge it, or lower checkpoint.keep")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_safetensors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="not contiguous"), building(tmp_path / "merged"):
        raise SafetensorError("not contiguous")


def _can_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


SAVE_ON_A_FULL_VOLUME = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from phitune_trainer.folders import building
from phitune_trainer.errors import volume_problem
volume = Path(sys.argv[1])
try:
    with building(volume / "merged") as aside:
        save_file({"a": torch.zeros(10_000_000)}, aside / "model.safetensors")
except OSError as error:
    print(volume_problem(error, volume))
"""


@pytest.mark.slow
@pytest.mark.skipif(not _can_mount(), reason="only root can mount a small volume")
def test_a_volume_that_is_really_full_is_told_in_these_words(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    program = [sys.executable, "-c", SAVE_ON_A_FULL_VOLUME, str(tmp_path)]
    said = subprocess.run([*command, *program], check=True, capture_output=True, text=True).stdout
    assert f"cannot write {tmp_path / 'merged'} (1.0 MB of 1.0 MB are free): the volume is full" in said
