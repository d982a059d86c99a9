"""The jobs that README and documentation show are taken as they are, by API server and operator."""

from __future__ import annotations

import re

import pytest

from harness.cluster import REPOSITORY
from harness.lab import Lab

FILES = ["README.md", "docs/quickstart.md"]


@pytest.mark.parametrize("file", FILES)
def test_shown_job_lacks_nothing_but_what_it_names(lab: Lab, file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    lab.apply_text(shown)
    condition = lab.wait_for_condition("receipts", "Accepted", "False")
    assert condition["reason"] == "ClaimNotFound", condition["message"]
