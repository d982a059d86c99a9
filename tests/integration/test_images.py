"""The operator's image, built for real: the same bytes each time, small, and a list of all that is in it."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tarfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lock import pins

from harness.cluster import REPOSITORY, run
from harness.image_builds import empty_cache

# Slow: each build takes many seconds, and may wait for another, of the cluster's images on an empty cache.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
RUN = secrets.token_hex(4)
"""Another run beside this one has the same cache."""
NOT_SOURCES = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build")


@dataclass(frozen=True)
class Built:
    """One build and what came of it."""

    digest: str
    """Of the manifest, and so of every byte of the image."""
    size: int
    """Bytes of its archive, which is what a node pulls."""
    sbom: dict[str, Any]
    was_there: bool


def build(tag: str, environment: Mapping[str, str] | None = None, sources: Path = REPOSITORY) -> Built:
    """Build the operator's image under a tag that nobody else uses, and leave no archive of it."""
    command = [sys.executable, str(sources / "hack/images"), "build", "operator", "--json", "--tag", tag]
    (one,) = json.loads(run(command, env=environment, timeout=1800))
    archive, sbom = Path(one["archive"]), Path(one["sbom"])
    try:
        with tarfile.open(archive) as tar:
            index = json.load(tar.extractfile("index.json") or pytest.fail("no index"))
        digest = index["manifests"][0]["digest"]
        return Built(digest, archive.stat().st_size, json.loads(sbom.read_text()), one["was_there"])
    finally:
        archive.unlink()
        sbom.unlink()


@pytest.fixture(scope="module")
def image() -> Built:
    return build(f"of-a-test-{RUN}-1")


def test_two_builds_of_the_same_sources_do_not_differ_in_a_byte_wherever_they_lie(
    image: Built, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "sources"
    shutil.copytree(REPOSITORY, elsewhere, symlinks=True, ignore=NOT_SOURCES)
    venv.create(elsewhere / ".venv")
    installer = {**empty_cache(tmp_path), "VIRTUAL_ENV": str(elsewhere / ".venv")}
    again = build(f"of-a-test-{RUN}-2", installer, elsewhere)
    shutil.rmtree(tmp_path)
    assert not again.was_there
    assert again.digest == image.digest


def test_operator_is_small_to_pull(image: Built) -> None:
    assert image.size < 200e6


def test_list_of_contents_has_the_packages_of_the_lock_in_its_versions_and_debians(image: Built) -> None:
    parts = image.sbom["components"]
    python = {part["name"]: part["version"] for part in parts if part["purl"].startswith("pkg:pypi/")}
    locked = pins((REPOSITORY / "requirements/operator.txt").read_text())
    assert {name: version in map(str, locked[name]) for name, version in python.items()} == dict.fromkeys(
        python, True
    )
    assert {"kopf", "kubernetes", "pydantic"} <= python.keys()
    debian = {part["name"] for part in parts if part["purl"].startswith("pkg:deb/debian/")}
    assert {"libc6", "python3.11", "ca-certificates"} <= debian
    assert {"gcc", "g++", "make"}.isdisjoint(debian)
