"""What the Dockerfiles promise to those who run the images."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuild.keys import copied_paths
from imagebuild.paths import ROOT
from phitune_operator.builds import BUILDS

IMAGES = ("operator", "trainer")


def dockerfile(image: str) -> str:
    return (ROOT / "docker" / f"{image}.Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_image_does_not_run_as_root(image: str) -> None:
    users = [line for line in dockerfile(image).splitlines() if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]


def test_who_asks_for_the_name_of_the_trainers_user_gets_one_whatever_the_uid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", dockerfile("trainer"), re.MULTILINE)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_000_700_000)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    for setting in block.replace("\\\n", " ").split():
        monkeypatch.setenv(*setting.split("=", 1))
    assert getpass.getuser() == "phitune"


INSTALLER = ROOT / "docker" / "install-packages"
"""The script that installs a lock in the trainer's image."""


@pytest.mark.parametrize("image", IMAGES)
def test_packages_are_installed_only_with_their_hashes(image: str) -> None:
    text = dockerfile(image) + INSTALLER.read_text() * ("install-packages" in dockerfile(image))
    commands = re.split(r"\n(?! )", text.replace("\\\n", " "))
    installs = [part for line in commands for part in line.split("&&") if "pip install" in part]
    # What was compiled on the way has no hash in any lock; its sources and its compiler have.
    assert [one for one in installs if "--require-hashes" not in one and "/built/" not in one] == []
    assert any("--require-hashes" in one for one in installs)


def test_each_build_of_the_matrix_is_a_stage_that_installs_its_lock() -> None:
    stages = {stage.split()[2]: stage for stage in dockerfile("trainer").split("\nFROM ") if " AS " in stage}
    for build in BUILDS:
        stage = stages[build.name]
        while "install-packages /" not in stage:
            stage = stages[stage.split()[0]]
        assert f"/requirements/{build.lock}\n" in stage
        assert ("flash_attn" in stages[build.name]) == (build.flash_attn is not None)


def test_flash_attn_is_compiled_for_what_the_matrix_says_by_the_compiler_of_its_cuda() -> None:
    (flash,) = [build for build in BUILDS if build.flash_attn]
    text = "".join(
        (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("flash-attn", "cuda-compiler")
    )
    pinned = dict(re.findall(r"^([a-z-]+)==(\S+)", text, re.MULTILINE))
    assert pinned["flash-attn"] == flash.flash_attn
    for part in ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm"):
        assert pinned[part].startswith(f"{flash.cuda}.")


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", ROOT / "docker" / f"{image}.Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_what_a_dockerfile_copies_is_sent_to_the_builder(image: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    stages = dockerfile(image).replace("\\\n", " ").splitlines()
    copied = [word for line in stages if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert len(copied) > 2
    assert [
        name for name in copied if not any(name == path or name.startswith(f"{path}/") for path in sent)
    ] == []


def test_operator_image_holds_all_of_the_trainer_that_the_operator_imports(tmp_path: Path) -> None:
    for path in copied_paths(dockerfile("operator"), ROOT):
        target = tmp_path.joinpath(*path.relative_to(ROOT).parts[1:])
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.suffix == ".py":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    # Before the folders of an editable installation, which hold the whole trainer.
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import phitune_operator, phitune_trainer\n"
        f"assert phitune_trainer.__file__.startswith({str(tmp_path)!r}), phitune_trainer.__file__\n"
        "names = [m.name for m in pkgutil.walk_packages(phitune_operator.__path__, 'phitune_operator.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
