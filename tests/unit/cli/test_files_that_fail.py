"""A disk that fails, is full or is closed: one sentence with the file and what to do, on any command."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY
from harness.nobody import nobody
from phitune_cli.main import main

FAILS = "/proc/self/mem"
"""A process's own memory has no first byte: the kernel answers with an error of input and output."""

FAILING = "Input/output error; the disk or the network volume fails"
REMEDY = "; the same command again may succeed, else look at it\n"


def test_samples_that_a_disk_does_not_give_are_no_problem_of_theirs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "check", FAILS]) == 1
    assert capsys.readouterr().err.endswith(f"phitune data: {FAILS}: {FAILING}{REMEDY}")


def test_nor_is_a_model_that_is_to_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "preprocessor_config.json"
    for file in (settings, tmp_path / "config.json"):
        file.symlink_to(FAILS)
    assert main(["predict", "--model", str(tmp_path), "--prompt", "What is it?"]) == 1
    assert capsys.readouterr().err.endswith(f"phitune predict: {settings}: {FAILING}{REMEDY}")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("phitune render", ["render", str(REPOSITORY / "examples/digits.yaml")]),
        ("phitune", ["--version"]),
    ],
)
def test_output_that_finds_no_room_is_named_once(name: str, arguments: list[str]) -> None:
    code = "import sys\nfrom phitune_cli.main import main\nsys.exit(main(sys.argv[1:]))"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    expected = f"{name}: standard output: No space left on device; make room there, or choose another disk"
    assert (ended.returncode, ended.stderr) == (2, f"{expected}\n")


@pytest.mark.parametrize("output", ["/dev/null", "/dev/stderr"])
def test_a_full_disk_elsewhere_is_not_laid_upon_the_output(output: str) -> None:
    code = """
import errno, os, sys
import phitune_cli.completion_cmd as command
from phitune_cli.main import main
def fail(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
command.main = fail
sys.exit(main(["completion", "bash"]))
"""
    with Path(output).open("w") as out:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "Traceback" in ended.stderr
    assert "standard output" not in ended.stderr


def test_a_folder_that_may_not_be_written_is_named_with_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    # What the command imports on its way may lie where only root may read.
    assert main(["init-model", "--size", "tiny", "--out", str(tmp_path / "open")]) == 0
    with nobody(tmp_path):
        assert main(["init-model", "--size", "tiny", "--out", str(closed / "model")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"phitune init-model: {closed}/")
    assert said.endswith(": Permission denied; give this user the permission, or choose another path\n")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file", "/of/ours"), id="a file of ours"),
        pytest.param(OSError(errno.EIO, "Input/output error"), id="no file"),
        pytest.param(OSError(errno.EBADF, "Bad file descriptor", "/a/file"), id="what no disk says"),
    ],
)
def test_what_may_be_a_mistake_of_ours_keeps_its_traceback(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("phitune_cli.completion_cmd.main", fail)
    with pytest.raises(type(error)) as raised:
        main(["completion", "bash"])
    assert raised.value is error
