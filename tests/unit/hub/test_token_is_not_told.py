"""The hub's token is used, and neither said nor written anywhere, whether the hub agrees or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import canaries
from harness.hub_server import TOKEN, FakeHub, Fault
from harness.jobs import finetunejob
from harness.train_configs import train_config
from phitune_cli.main import main
from phitune_trainer.prepare import prepare

FROM_HUB: dict[str, Any] = {"model": {"name": "team/tiny", "init": None}}


@pytest.fixture
def gated(server: FakeHub, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub whose model needs the token, which we have."""
    files = {path.name: path.read_bytes() for path in base_model.iterdir()}
    server.model("team/tiny", files=files).is_gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


def test_a_token_that_opened_a_model_is_neither_said_nor_on_the_volume(
    gated: FakeHub, tmp_path: Path
) -> None:
    said: list[str] = []
    prepare(train_config(tmp_path, FROM_HUB), said.append)
    assert any(request.token == TOKEN for request in gated.requests)
    assert (tmp_path / "models/team--tiny/main/config.json").is_file()
    assert canaries.told([TOKEN], "\n".join(said)) == canaries.written([TOKEN], tmp_path) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refuses the token"), (403, "team/tiny"), (404, "team/tiny"), (503, "answered 503")],
)
def test_a_hub_that_does_not_agree_is_told_of_without_the_token(
    gated: FakeHub,
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("phitune_trainer.hub_connection.PAUSES", (0.01,))
    gated.faults = [Fault("/revision/main", status=status, times=99)]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(finetunejob("digits", {"model": {"init": None, "name": "team/tiny"}})))
    assert main(["run", str(file), "--workspace", str(tmp_path / "volume")]) != 0
    said = capsys.readouterr()
    assert words in said.err
    assert canaries.told([TOKEN], said.out + said.err) == canaries.written([TOKEN], tmp_path) == []
