"""`phitune run` ends with the command that goes on, or begins anew: it can be pasted into a shell."""

import shlex
from pathlib import Path

import pytest
import yaml

from harness.documents import job
from phitune_cli import run_cmd
from phitune_cli.main import main
from phitune_trainer.exit_codes import DONE, INTERRUPTED

RESULT = {"steps": 3, "method": "full", "evaluation": None, "artifacts": {}}


@pytest.mark.parametrize("options", [[], ["--workspace", "my disk"]])
@pytest.mark.parametrize(
    ("code", "before", "behind", "more"),
    [(INTERRUPTED, "Stopped. `", "` goes on", []), (DONE, "A new run: ", "\n", ["--fresh"])],
)
def test_the_command_that_is_said_at_the_end_names_the_same_job_and_folder(
    code: int,
    before: str,
    behind: str,
    more: list[str],
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_cmd, "carry_out", lambda _: code)
    monkeypatch.setattr(run_cmd, "read_result", lambda _: RESULT)
    Path("my receipts").mkdir()
    file = "my receipts/tiny.yaml"
    Path(file).write_text(yaml.safe_dump(job()), encoding="utf-8")
    assert main(["run", file, *options]) == code
    said = capsys.readouterr().out.partition(before)[2].partition(behind)[0]
    assert shlex.split(said) == ["phitune", "run", file, *options, *more]
