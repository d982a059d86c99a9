"""How each image is made of its Dockerfile: on packages of our own making, or whole, as a release is."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from imagebuild import deps, keys
from imagebuild.paths import ROOT
from imagebuild.storage import Storage

BASE_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
"""What releases stand on; the same that the Dockerfiles name."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image and what `buildah build` has to be told for it."""

    name: str
    """Of its archive: operator, trainer-flash."""
    repository: str
    """operator or trainer."""
    tag_suffix: str = ""
    """What its tag ends with, where several images share a repository."""
    arguments: tuple[str, ...]
    content: str
    """Key of all that goes into it."""
    revision: str
    """What its label and its list of contents call the sources."""

    @property
    def dockerfile(self) -> Path:
        """Where it is described."""
        return ROOT / "docker" / f"{self.repository}.Dockerfile"

    def reference(self, tag: str) -> str:
        """Its name without a registry."""
        return f"phitune/{self.repository}:{tag}{self.tag_suffix}"


def local(store: Storage, name: str) -> Recipe:
    """The last stage of "operator" or "trainer" on packages of our own; makes those."""
    dependencies = deps.build(store, name)
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    content = keys.key(dependencies, text, keys.files_key(ROOT, keys.copied_paths(text, ROOT)))
    return Recipe(
        name=name,
        repository=name,
        arguments=("--build-context", f"deps=container-image://{dependencies}"),
        content=content,
        revision=content,  # the same sources are the same image, whatever commit they are of
    )


def releases() -> list[str]:
    """The names of a release's images: the operator, and the trainer in each build of docker/matrix.toml."""
    builds = tomllib.loads((ROOT / "docker" / "matrix.toml").read_text())
    return ["operator", *(f"trainer-{build}" for build in builds)]


def release(name: str, base_image: str, jobs: int = 1) -> Recipe:
    """One of `releases`: the whole Dockerfile, with all that GPUs need; `jobs` files compiled at a time."""
    repository, _, build = name.partition("-")
    text = (ROOT / "docker" / f"{repository}.Dockerfile").read_text()
    arguments = ["--build-arg", f"BASE_IMAGE={base_image}"]
    if build:
        arguments += ["--build-arg", f"BUILD={build}"]
    content = keys.key(*arguments, text, keys.files_key(ROOT, keys.copied_paths(text, ROOT, all_stages=True)))
    return Recipe(
        name=name,
        repository=repository,
        tag_suffix=f"-{build}" if build else "",
        arguments=(*arguments, "--build-arg", f"JOBS={jobs}") if build == "flash" else tuple(arguments),
        content=content,
        revision=_commit() or content,
    )


def _commit() -> str | None:
    """The commit of the checkout; None if files differ from it, or this is no checkout of ours."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    said = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return None if said.endswith("-dirty") else said or None
