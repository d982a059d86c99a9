"""Whose a refused write is, and which of them end the training."""

import errno
from pathlib import Path

import pytest
import torch

from phitune_trainer.endings import ending_of
from phitune_trainer.errors import volume_problem, writing_to
from phitune_trainer.logs import Step, StepLog, say
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import IncarnationFolder
from phitune_trainer.step_files import StepFiles


def refused(path: str | None, code: int = errno.ENOSPC) -> OSError:
    return OSError(code, "refused", path) if path else OSError(code, "refused")


def test_only_paths_on_the_volume_are_the_users(tmp_path: Path) -> None:
    on_volume = refused(str(tmp_path / "runs" / "a"))
    assert "the volume is full" in str(volume_problem(on_volume, tmp_path))
    assert ending_of(on_volume, tmp_path)[:2] == (2, "VolumeFull")
    read_only = refused(str(tmp_path / "runs" / "a"), errno.EROFS)
    assert ending_of(read_only, tmp_path)[:2] == (2, "VolumeReadOnly")
    for error in (refused("/tmp-elsewhere/a"), refused(None), refused(str(tmp_path / "a"), errno.EIO)):
        assert ending_of(error, tmp_path)[:2] == (1, "Fault")
    assert ending_of(on_volume)[1] == "Fault", "before the config is known, nothing is the volume"


def test_a_write_that_names_no_file_is_given_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused") as caught, writing_to(tmp_path / "state"):
        raise refused(None)
    assert str(tmp_path / "state") in str(volume_problem(caught.value, tmp_path))


def test_training_goes_on_without_the_record_of_its_steps_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(attempt=1, total_steps=3)
    folder = IncarnationFolder(tmp_path / "gone")
    log = StepLog(
        progress,
        StepFiles(folder, say),
        total_steps=3,
        samples_per_epoch=4,
        device=torch.device("cpu"),
        peak_flops=None,
    )
    for number in (1, 2, 3):
        log.record(Step(number, 0.5, 1.5, 1e-3, num_samples=4, num_images=4, num_tokens=8, num_flops=9))
        log.flush()
    assert progress.snapshot()["step"] == 3
    assert capsys.readouterr().out.count("training goes on") == 1
