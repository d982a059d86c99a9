"""`phitune run` where the hub does not answer."""

from pathlib import Path

import pytest
import yaml

from harness.hub_server import FakeHub, Fault
from harness.jobs import finetunejob
from phitune_cli.main import main


def test_a_hub_that_stays_away_ends_in_one_sentence(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phitune_trainer.hub_connection.PAUSES", (0.01,))
    server.model("team/tiny", files={"config.json": b"{}"})
    server.faults = [Fault("/revision/main", status=503, times=99)]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(finetunejob("digits", {"model": {"init": None, "name": "team/tiny"}})))
    assert main(["run", str(file), "--workspace", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "answered 503" in said.err
    assert "Traceback" not in said.err
    assert said.out.endswith("Not done (exit code 1).\n")
