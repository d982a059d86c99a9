"""A volume that cannot give a file for now is no fault of the file: nobody is told to replace it."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from phitune_trainer.data.jsonl import read_lines
from phitune_trainer.data.pictures import read_size
from phitune_trainer.endings import ending_of
from phitune_trainer.exit_codes import USER_ERROR
from phitune_trainer.model.files import TensorEntry, read_header
from phitune_trainer.model.read import read_tensors
from phitune_trainer.model_config import read_json

OUT_OF_REACH = Path("/proc/self/mem")
"""A process's own memory has no first byte: the kernel answers with an error of input and output."""


def read_weights(path: Path) -> object:
    return read_tensors(path, {"a": TensorEntry("F32", (1,), 0, 4)}, dtype=torch.float32)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda path: list(read_lines(path)), id="samples"),
        pytest.param(read_json, id="the configuration of a model"),
        pytest.param(read_header, id="which weights there are"),
        pytest.param(read_weights, id="weights"),
    ],
)
def test_a_file_that_a_volume_fails_to_give_ends_a_run_that_may_start_again(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=str(OUT_OF_REACH)) as failed:
        read(OUT_OF_REACH)
    assert failed.value.errno == errno.EIO
    code, reason, message = ending_of(failed.value, tmp_path)
    assert (code != USER_ERROR, reason) == (True, "Fault")
    assert str(OUT_OF_REACH) in message


def test_nor_is_a_picture_to_be_replaced_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow leaves such a file open, so here it is Pillow that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match=r"/volume/a\.png") as failed:
        read_size(Path("/volume/a.png"))
    assert failed.value.errno == errno.ESTALE
