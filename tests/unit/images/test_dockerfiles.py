"""What the Dockerfiles promise to those who run the images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuild.keys import copied_paths
from imagebuild.paths import ROOT

IMAGES = ("operator", "trainer")


def dockerfile(image: str) -> str:
    return (ROOT / "docker" / f"{image}.Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_image_does_not_run_as_root(image: str) -> None:
    users = [line for line in dockerfile(image).splitlines() if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]


@pytest.mark.parametrize("image", IMAGES)
def test_packages_are_installed_only_with_their_hashes(image: str) -> None:
    installs = dockerfile(image).replace("\\\n", " ").count("pip install")
    assert installs > 0
    assert dockerfile(image).count("--require-hashes") == installs


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
            target.parent.mkdir(exist_ok=True)
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
