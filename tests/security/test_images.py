"""What an image tells of the machine that it was built on: arguments of its build stay in it."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import REPOSITORY, run

SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|INDEX_URL|PROXY|API_KEY|ACCESS_KEY", re.IGNORECASE)
"""Names of variables whose values are nobody's business."""


@pytest.fixture(scope="module", params=["operator", "trainer"])
def config(request: pytest.FixtureRequest) -> Any:
    """What the archive of a built image says of it: variables, labels, and each step of its build."""
    text = run([sys.executable, str(REPOSITORY / "hack/images"), "build", "--json"], timeout=1800)
    (image,) = [image for image in json.loads(text) if image["name"] == request.param]
    return config_of(Path(image["archive"]))


def config_of(archive: Path) -> Any:
    with tarfile.open(archive) as files:

        def read(name: str) -> Any:
            found = files.extractfile(name)
            assert found is not None
            return json.load(found)

        def blob(about: dict[str, str]) -> Any:
            return read("blobs/" + about["digest"].replace(":", "/"))

        (image,) = read("index.json")["manifests"]
        return blob(blob(image)["config"])


def test_an_image_tells_nothing_of_who_built_it(config: Any) -> None:
    steps = [step.get("created_by", "") for step in config["history"]]
    assert any("COPY" in step for step in steps)
    named = [variable.partition("=")[0] for variable in config["config"]["Env"]]
    named += re.findall(r"\b([A-Za-z_]\w*)=", "\n".join(steps))
    assert "PYTHONPATH" in named
    assert [name for name in named if SECRET.search(name)] == []
    values = [value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 7]
    assert [value for value in values if value in json.dumps(config, ensure_ascii=False)] == []
