"""The jobs that README and documentation show are taken as they are, by API server and operator."""

from __future__ import annotations

import re

import pytest
import yaml

from harness.cluster import REPOSITORY
from harness.lab import Lab

LACKS = {"docvqa": "NoSuchGPU", "receipts": "ClaimNotFound"}
"""What each job that is shown asks of a cluster, and the tests' cluster has not."""


@pytest.mark.parametrize(
    ("file", "names"), [("README.md", ["docvqa"]), ("docs/quickstart.md", ["docvqa", "receipts"])]
)
def test_shown_jobs_lack_nothing_but_what_they_name(lab: Lab, file: str, names: list[str]) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert [yaml.safe_load(job)["metadata"]["name"] for job in shown] == names
    for name, job in zip(names, shown, strict=True):
        lab.apply_text(job)
        condition = lab.wait_for_condition(name, "Accepted", "False")
        assert condition["reason"] == LACKS[name], condition["message"]
