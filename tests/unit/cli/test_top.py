"""`kubectl finetune top`: what is said where a job does not tell how fast it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.answering_cluster import api_server, kubeconfig
from phitune_cli.finetune.main import main
from phitune_cli.finetune.problems import ConnectionLost, NotAllowed, Problem, WrongInput

TOLD = {"state": "training", "step": 5, "totalSteps": 9}

LOST = ConnectionLost("the agent in the pod ended")
DENIED = NotAllowed('pods "a" is forbidden: User "u" cannot create resource "pods/exec"')


def top(jobs: dict[str, Problem | None], folder: Path, *options: str, phase: str = "Running") -> int:
    """Ask jobs of which rank 0 tells, or is kept from it by a problem; the exit code."""

    def pods_of(path: str) -> tuple[int, Any]:
        items = [
            {
                "metadata": {"name": name, "labels": {"phitune.dev/rank": "0"}},
                "status": {"phase": phase},
            }
            for name in jobs
            if f"job-uid%3D{name}" in path
        ]
        return 200, {"items": items}

    @contextmanager
    def connected(_: object, pod: str, __: str) -> Iterator[Any]:
        if (problem := jobs[pod]) is not None:
            raise problem
        yield SimpleNamespace(ask=lambda *_: SimpleNamespace(body=json.dumps(TOLD).encode()))

    answers = {
        "/finetunejobs": (200, {"items": [{"metadata": {"name": name, "uid": name}} for name in jobs]}),
        "/pods": pods_of,
    }
    with pytest.MonkeyPatch.context() as patch, api_server(404, {}, answers) as address:
        patch.setattr("phitune_cli.finetune.top_cmd.connected", connected)
        return main(["top", *options, "--kubeconfig", kubeconfig(folder, address)])


@pytest.mark.parametrize("options", [[], ["-o", "json"]])
@pytest.mark.parametrize(
    ("problem", "code"),
    [
        pytest.param(DENIED, 77, id="the user may not ask"),
        pytest.param(LOST, 69, id="the connection breaks"),
        pytest.param(WrongInput("on the volume, : connection refused"), 2, id="rank 0 does not answer"),
    ],
)
def test_a_job_that_runs_and_does_not_tell_is_not_said_to_be_none(
    problem: Problem, code: int, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top({"a": problem}, tmp_path, *options) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert str(problem) in err
    assert "no job trains" not in err


def test_a_job_that_does_not_tell_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top({"a": LOST, "b": None}, tmp_path) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[:3] == ["b", "training", "5/9"]
    assert err == "a: the agent in the pod ended\n"


@pytest.mark.parametrize(
    ("options", "printed", "said"),
    [([], "", "no job trains in namespace team-a\n"), (["-o", "json"], "[]\n", "")],
)
def test_where_no_rank_0_runs_no_job_trains(
    options: list[str], printed: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top({"a": None}, tmp_path, *options, phase="Pending") == 0
    assert capsys.readouterr() == (printed, said)
