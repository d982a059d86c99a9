"""The page about the chart's values is made of their comments."""

from __future__ import annotations

import shutil
from pathlib import Path

import chart_readme
import pytest

from harness.cluster import REPOSITORY

VALUES = """\
# One for all.
replicas: 1
# Of the operator.
image:
  # Where it is.
  repository: somewhere
  # Which one.
  tag: ""
# As pods have them.
resources:
  limits: {memory: 512Mi}
"""


def test_a_value_is_a_row_with_default_and_comment() -> None:
    assert list(chart_readme.rows(VALUES)) == [
        ("replicas", "`1`", "One for all."),
        ("image.repository", '`"somewhere"`', "Where it is."),
        ("image.tag", '`""`', "Which one."),
        ("resources", '`{"limits": {"memory": "512Mi"}}`', "As pods have them."),
    ]


def test_a_value_that_nothing_tells_of_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"image\.pullPolicy has no comment"):
        list(chart_readme.rows(VALUES.replace("# As pods", "  pullPolicy: Always\n# As pods", 1)))


def test_a_page_that_differs_is_noticed_and_written(tmp_path: Path) -> None:
    for name in ("values.yaml", "README.md"):
        shutil.copy(REPOSITORY / "charts/phitune" / name, tmp_path)
    assert chart_readme.main(["--check"], tmp_path) == 0
    (tmp_path / "values.yaml").write_text(VALUES, encoding="utf-8")
    assert chart_readme.main(["--check"], tmp_path) == 1
    assert chart_readme.main([], tmp_path) == 0
    assert chart_readme.main(["--check"], tmp_path) == 0
