"""The pages as a site: `make docs` builds it, and nothing in a page is shown otherwise than it was meant."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY
from harness.documented import PAGES, page


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = subprocess.run(
        ["hack/docs", "--site-dir", str(site)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [name for name in PAGES if name.startswith("docs/")]
    assert [
        name for name in pages if not (site / Path(name).relative_to("docs").with_suffix(".html")).exists()
    ] == []


def pipes_in_tables(text: str) -> Iterator[str]:
    """Code with a pipe in a table: some sites end the cell there, others show what escapes it."""
    for row in re.findall(r"^\|.*$", text, re.MULTILINE):
        yield from (code for _, code in re.findall(r"(`+)(.+?)\1", row) if "|" in code)


def test_no_code_in_a_table_has_a_pipe() -> None:
    assert [f"{name}: {code}" for name in PAGES for code in pipes_in_tables(page(name))] == []


@pytest.mark.parametrize("row", ["| `a|b` | c |", r"| ``a\|b`` | c |"])
def test_a_pipe_in_a_table_is_noticed(row: str) -> None:
    assert list(pipes_in_tables(f"| x | y |\n| --- | --- |\n{row}\n"))
