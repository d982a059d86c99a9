"""What the launcher puts into a rank's environment, as a rank finds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

TELLS_AND_ENDS = """
import os
if "PHITUNE_LAUNCHER" in os.environ:  # in a rank
    print("torch logs from", os.environ["TORCH_CPP_LOG_LEVEL"], flush=True)
    os._exit(0)
"""
"""Imported by Python at its start, long before torch."""


@pytest.mark.parametrize(
    ("given", "level"),
    [
        pytest.param({}, "ERROR", id="by default"),
        pytest.param({"TORCH_CPP_LOG_LEVEL": "INFO"}, "INFO", id="as the user says"),
    ],
)
def test_torch_logs_no_warnings_of_its_own_unless_the_user_wants_them(
    given: dict[str, str],
    level: str,
    make_config: Any,
    start_pod: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text(TELLS_AND_ENDS)
    path = os.pathsep.join(filter(None, [str(tmp_path / "own"), os.environ.get("PYTHONPATH")]))
    _, _, output = start_pod(make_config(), PYTHONPATH=path, **given).wait()
    assert output.splitlines()[0] == f"torch logs from {level}"
