"""The README's "Without Kubernetes": the project in an environment of its own, and a job run there."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from harness.cluster import REPOSITORY
from harness.documented import commands_in_blocks, page

pytestmark = pytest.mark.slow

PACKAGES = ("operator/phitune_operator", "trainer/phitune_trainer", "cli/phitune_cli")
ABOUT = """
import importlib.metadata, json, phitune_cli, phitune_operator, phitune_trainer
places = [package.__path__[0] for package in (phitune_operator, phitune_trainer, phitune_cli)]
print(json.dumps([places, importlib.metadata.requires("phitune")]))
"""


def said(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints; the environment of the tests is none of its."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env={**outside, **variables}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the project, not editable; what it depends on is that of the tests."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    python = said(REPOSITORY / "hack/find-python", cwd=REPOSITORY).strip()
    said(python, "-m", "venv", venv, cwd=REPOSITORY)
    packages = sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)})
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("hack/uv", "pip", "install", "--quiet", "--python", venv / "bin/python", "--no-deps", ".")
    said(*install, cwd=REPOSITORY, UV_BUILD_CONSTRAINT=str(REPOSITORY / "requirements/build.txt"))
    return venv


def files(package: Path) -> set[str]:
    return {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_what_is_installed_is_whole_and_stands_by_itself(venv: Path, tmp_path: Path) -> None:
    places, _ = json.loads(said(venv / "bin/python", "-c", ABOUT, cwd=tmp_path))
    for package, place in zip(PACKAGES, places, strict=True):
        assert Path(place).is_relative_to(venv), "not the sources"
        assert files(Path(place)) == files(REPOSITORY / package)


def test_the_extra_asks_for_what_the_tests_run_on(venv: Path, tmp_path: Path) -> None:
    _, asked = json.loads(said(venv / "bin/python", "-c", ABOUT, cwd=tmp_path))
    requirements = [Requirement(text) for text in asked]
    wanted = [one for one in requirements if not one.marker or one.marker.evaluate({"extra": "trainer"})]
    assert {"pyyaml", "torch"} <= {one.name for one in wanted}
    assert [
        str(one) for one in wanted if not one.specifier.contains(version(one.name), prereleases=True)
    ] == []


def test_commands_of_the_readme_work_where_it_is_installed(venv: Path, tmp_path: Path) -> None:
    commands = [" ".join(words) for words in commands_in_blocks(page("README.md"))]
    first = commands.index("python3 -m venv venv")
    example = "examples/digits.yaml"
    assert commands[first + 1 : first + 3] == ["pip install .[trainer]", f"phitune run {example}"]

    phitune = venv / "bin/phitune"
    assert "FineTuneJob" in said(phitune, "run", "--help", cwd=tmp_path)
    assert "kind: PyTorchJob" in said(phitune, "render", REPOSITORY / example, cwd=tmp_path)
    said(phitune, "run", shortened(REPOSITORY / example, tmp_path / "digits.yaml"), cwd=tmp_path)
    (report,) = tmp_path.glob("runs/**/report.html")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")


def shortened(example: Path, path: Path) -> Path:
    """The same job of two steps."""
    job: Mapping[str, Mapping[str, Mapping[str, object]]] = yaml.safe_load(
        example.read_text(encoding="utf-8")
    )
    training = {**job["spec"]["training"], "maxSteps": 2, "warmupSteps": 1}
    del training["epochs"]
    spec = {**job["spec"], "training": training, "evaluation": {"enabled": False}}
    path.write_text(yaml.safe_dump({**job, "spec": spec}), encoding="utf-8")
    return path
