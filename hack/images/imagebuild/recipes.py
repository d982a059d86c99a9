"""How each image is made of its Dockerfile: on packages of our own making, or whole, as a release is."""

from __future__ import annotations

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
    return Recipe(
        name=name,
        repository=name,
        arguments=("--build-context", f"deps=container-image://{dependencies}"),
        content=keys.key(dependencies, text, keys.files_key(ROOT, keys.copied_paths(text, ROOT))),
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
    copied = keys.copied_paths(text, ROOT, all_stages=True)
    return Recipe(
        name=name,
        repository=repository,
        tag_suffix=f"-{build}" if build else "",
        arguments=(*arguments, "--build-arg", f"JOBS={jobs}") if build == "flash" else tuple(arguments),
        content=keys.key(*arguments, text, keys.files_key(ROOT, copied)),
    )
