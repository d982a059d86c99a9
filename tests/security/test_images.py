"""What an image tells of the machine that it was built on: arguments of its build stay in it.

The builds have secrets in their environment that nobody else has. What then has one of them has leaked it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.canaries import canary, streamed, told
from harness.cluster import REPOSITORY, run
from harness.image_builds import empty_cache

# Another build may be waited for, of the cluster's images on an empty cache.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|INDEX_URL|PROXY|API_KEY|ACCESS_KEY", re.IGNORECASE)
"""Names of variables whose values are nobody's business."""
CANARIES = {
    name: canary(name.lower())
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "UV_INDEX_PRIVATE_PASSWORD",
        "FTP_PROXY",
    )
}
"""Nothing of a build uses them. A proxy's address is what buildah itself hands to every step."""
OUR_CODE = "opt/phitune/phitune_trainer/config.py"
"""In a layer of every image: whoever does not find it has not searched."""


@dataclass(frozen=True)
class Image:
    """An image that was built with canaries in the environment."""

    name: str
    was_there: bool
    config: Any
    """What the archive says of it: variables, labels, and each step of its build."""
    in_layers: set[str]
    """Which of the canaries, and our code, are in its layers."""


@pytest.fixture(scope="module", params=["operator", "trainer"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    name, folder = request.param, tmp_path_factory.mktemp("cache")
    build(name)
    # Of the operator the packages are installed anew as well; those of the trainer would take minutes.
    cache = empty_cache(folder) if name == "operator" else {}
    built = build(name, "--tag", f"of-canaries-{secrets.token_hex(4)}", environment={**CANARIES, **cache})
    archive, sbom = Path(built["archive"]), Path(built["sbom"])
    try:
        with tarfile.open(archive) as files:
            config, in_layers = read(files)
        yield Image(name, built["was_there"], config, in_layers)
    finally:
        archive.unlink()
        sbom.unlink()
        shutil.rmtree(folder)


def build(name: str, *options: str, environment: Mapping[str, str] | None = None) -> Any:
    """Build an image; what `--json` tells of it."""
    command = [sys.executable, str(REPOSITORY / "hack/images"), "build", name, "--json", *options]
    (one,) = json.loads(run(command, env=environment, timeout=1800))
    return one


def read(files: tarfile.TarFile) -> tuple[Any, set[str]]:
    """The config of an archive, and what of the sought is in its layers."""

    def opened(name: str) -> Any:
        found = files.extractfile(name)
        assert found is not None
        return found

    def blob(about: dict[str, str]) -> Any:
        return opened("blobs/" + about["digest"].replace(":", "/"))

    (entry,) = json.load(opened("index.json"))["manifests"]
    manifest = json.load(blob(entry))
    in_layers = set[str]()
    for layer in manifest["layers"]:
        assert layer["mediaType"].endswith("+zstd")
        packed = pa.PythonFile(blob(layer), "r")
        with pa.CompressedInputStream(packed, "zstd") as stream:
            in_layers |= streamed([*CANARIES.values(), OUR_CODE], stream)
    return json.load(blob(manifest["config"])), in_layers


def test_an_image_tells_nothing_of_who_built_it(image: Image) -> None:
    assert not image.was_there, "it was built with the canaries"
    assert image.in_layers == {OUR_CODE}
    config = json.dumps(image.config, ensure_ascii=False)
    assert told(CANARIES.values(), config) == []
    steps = [step.get("created_by", "") for step in image.config["history"]]
    assert any("COPY" in step for step in steps)
    named = [variable.partition("=")[0] for variable in image.config["config"]["Env"]]
    named += re.findall(r"\b([A-Za-z_]\w*)=", "\n".join(steps))
    assert "PYTHONPATH" in named
    assert [name for name in named if SECRET.search(name)] == []
    own = {name: value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 7}
    assert [name for name, value in own.items() if value in config] == []


def test_an_image_says_what_it_is_and_of_which_sources(image: Image) -> None:
    labels = image.config["config"]["Labels"]
    told_of = {name: labels[f"org.opencontainers.image.{name}"] for name in ("title", "licenses")}
    assert told_of == {"title": f"phitune {image.name}", "licenses": "Apache-2.0"}
    assert len(labels["org.opencontainers.image.description"]) > 20
    assert re.fullmatch(r"[0-9a-f]{12,40}(-dirty)?", labels["org.opencontainers.image.revision"])
