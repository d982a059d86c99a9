"""For which GPUs the installed libraries were compiled, and whether that is what placement believes."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from imagebuild import gpu_code
from imagebuild.gpu_code import architectures, missing, problems
from imagebuild.paths import ROOT
from phitune_operator.builds import BUILDS

MATRIX = ROOT / "docker" / "matrix.toml"
SITE = Path(torch.__file__).parents[1]
TORCH = SITE / "torch" / "lib" / "libtorch_cuda.so"
INSTALLED = torch.__version__.partition("+")[0]


def flash_site(folder: Path) -> Path:
    """The installed packages, with a library in flash-attn's place that is for 7.5 to 12.0."""
    (folder / "torch").symlink_to(SITE / "torch")
    (folder / "bitsandbytes").symlink_to(SITE / "bitsandbytes")
    name = f"libbitsandbytes_cuda{(torch.version.cuda or '').replace('.', '')}.so"
    (folder / "flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so").symlink_to(SITE / "bitsandbytes" / name)
    return folder


def test_architectures_read_from_torchs_library_are_those_that_torch_tells_of_itself() -> None:
    told = re.findall(r"sm_(\d+)", torch._C._cuda_getArchFlags() or "")
    assert architectures(TORCH) == {divmod(int(code), 10) for code in told}


def test_builds_of_the_installed_torch_run_on_every_card_that_placement_sends_them(tmp_path: Path) -> None:
    site = flash_site(tmp_path)
    same = [build.name for build in BUILDS if build.torch == INSTALLED]
    assert same
    assert [problems(MATRIX, name, site) for name in same] == [[] for _ in same]


@pytest.mark.parametrize(("needed", "goes_on"), [("9.0", True), ('9.0", "6.1', False)])
def test_building_an_image_goes_on_only_with_code_for_all_that_it_is_meant_for(
    tmp_path: Path, needed: str, goes_on: bool
) -> None:
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(f'[plain]\ncuda = "{torch.version.cuda}"\narchitectures = ["{needed}"]\n')
    command = [sys.executable, gpu_code.__file__, str(matrix), "plain", str(SITE)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0, ended.stderr == "") == (goes_on, goes_on), ended.stderr


def test_library_that_lacks_an_architecture_of_its_build_is_named(tmp_path: Path) -> None:
    text = (
        MATRIX.read_text().replace('["7.0"]', '["7.0", "6.1"]').replace('"12.8"', f'"{torch.version.cuda}"')
    )
    (tmp_path / "matrix.toml").write_text(text)
    found = problems(tmp_path / "matrix.toml", "v100", SITE)
    assert len(found) == 2
    assert re.fullmatch(
        r"libtorch_cuda\.so has no code for (6\.1, 7\.0|6\.1), which build v100 is meant for", found[0]
    )


def test_build_that_should_have_flash_attn_and_has_none_is_not_let_through(tmp_path: Path) -> None:
    next(flash_site(tmp_path).glob("flash_attn_2_cuda*")).unlink()
    with pytest.raises(FileNotFoundError, match="flash_attn_2_cuda"):
        problems(MATRIX, "flash", tmp_path)


def test_what_is_missing_is_what_placement_would_send_to_a_card_in_vain() -> None:
    compiled = {(8, 0), (9, 0), (12, 1)}
    for capability in product(range(7, 13), range(10)):
        runs = any(major == capability[0] and minor <= capability[1] for major, minor in compiled)
        assert (missing({capability}, compiled) == set()) == runs


def test_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("INPUT(-lc)")
    with pytest.raises(ValueError, match="not a library"):
        architectures(tmp_path / "text.so")
