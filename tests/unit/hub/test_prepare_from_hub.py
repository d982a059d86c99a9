"""A job's model and data come from the hub; then everything is on the volume and no network is needed."""

from __future__ import annotations

import io
import json
import re
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.hub_server import TOKEN, FakeHub, Fault
from harness.parquet_data import CAULDRON, DOCVQA_1200, cauldron_row, docvqa_row, write_parquet
from harness.train_configs import train_config
from harness.videos import write_video
from phitune_trainer import prepare as prepare_module
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.prepare import prepare

torch.set_num_threads(1)

CLASSES = ("Archery", "Basketball")


@pytest.fixture
def hub(server: FakeHub, base_model: Path, tmp_path: Path) -> FakeHub:
    """A hub with the recipe's data sets, a few rows of each."""
    server.model("team/tiny", files={path.name: path.read_bytes() for path in base_model.iterdir()})
    files = {"docvqa/train-0.parquet": [cauldron_row(("What?", "Seven."), ("Who?", "He."))] * 3}
    server.dataset("HuggingFaceM4/the_cauldron", files=parquet(tmp_path, files, CAULDRON))
    mini = {f"data/{part}-0.parquet": [docvqa_row("What?", "Seven", "7")] * 2 for part in ("train", "test")}
    server.dataset("nielsr/docvqa_1200_examples", files=parquet(tmp_path, mini, DOCVQA_1200))
    server.dataset("sayakpaul/ucf101-subset", files={"UCF101_subset.tar.gz": archive(tmp_path / "videos")})
    return server


def parquet(folder: Path, files: dict[str, list[Any]], schema: Any) -> dict[str, bytes]:
    return {name: write_parquet(folder / name, schema, rows).read_bytes() for name, rows in files.items()}


def archive(folder: Path) -> bytes:
    """Videos as the published archive holds them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as members:
        for part in ("train", "val", "test"):
            for label in CLASSES:
                path = folder / part / label / f"v_{label}_g01_c01.avi"
                path.parent.mkdir(parents=True)
                members.add(write_video(path, 9), f"UCF101_subset/{part}/{label}/{path.name}")
        bad = folder / "bad.avi"
        bad.write_text("not a video")
        members.add(bad, f"UCF101_subset/train/{CLASSES[0]}/bad.avi")
    return packed.getvalue()


FROM_HUB = {"model": {"name": "team/tiny", "init": None}, "data": {"generate": None, "eval": None}}


def config(workspace: Path, task: str = "docvqa", **changes: dict[str, Any]) -> TrainConfig:
    return train_config(workspace, FROM_HUB, {"task": task}, changes)


def prepared(job: TrainConfig) -> list[str]:
    said: list[str] = []
    prepare(job, said.append)
    return said


def test_model_and_both_data_sets_of_docvqa_come_and_a_second_job_asks_for_nothing(
    hub: FakeHub, tmp_path: Path, bare_environment: Path
) -> None:
    said = prepared(config(tmp_path))
    assert any("3 pages with 6 questions to train on: the full training split" in line for line in said)
    assert any("2 held out to score: the mini test split" in line for line in said)
    data = tmp_path / "data" / "docvqa" / "main"
    found = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.parquet"))
    assert found == ["data/test-0.parquet", "docvqa/train-0.parquet"]
    assert (tmp_path / "models" / "team--tiny" / "main" / "config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("videos", "docvqa")) == [
        "costs",
        "data",
        "models",
    ]
    assert not bare_environment.exists()
    hub.requests.clear()
    assert any("on the volume: commit aaaaaaaaaaaa" in line for line in prepared(config(tmp_path)))
    assert hub.requests == []


def test_the_mini_split_adds_its_own_files_and_leaves_the_default_the_full_one(
    hub: FakeHub, tmp_path: Path
) -> None:
    said = prepared(config(tmp_path, data={"train": "mini"}))
    assert any("the mini training split" in line for line in said)
    assert not [request for request in hub.requests if "the_cauldron" in request.path]
    assert any("the full training split" in line for line in prepared(config(tmp_path)))
    assert len(hub.fetched("test-0.parquet")) == 1


def test_videos_of_ucf101_become_frames_and_the_archive_goes(hub: FakeHub, tmp_path: Path) -> None:
    said = prepared(config(tmp_path, "ucf101"))
    assert any("2 samples to train on: eight frames of the training videos" in line for line in said)
    at = said.index("data: 1 videos of the archive cannot be read, and are left out:")
    assert said[at + 1].startswith("data: UCF101_subset/train/Archery/bad.avi: cannot be decoded: ")
    folder = tmp_path / "data" / "ucf101" / "main"
    assert len(list(folder.glob("images/train/*/*.jpg"))) == 2 * 8
    assert [path.name for path in folder.parent.iterdir()] == ["main"]
    hub.requests.clear()
    prepared(config(tmp_path, "ucf101"))
    assert hub.requests == []


def test_what_is_wrong_with_model_and_data_is_said_at_once_and_nothing_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.repos["models/team/tiny"].is_gated = True
    job = config(tmp_path, data={"name": "team/nothing"})
    with pytest.raises(UserError) as refused:
        prepare(job, lambda _: None)
    model, data = str(refused.value).splitlines()
    assert "model team/tiny is gated" in model
    assert "spec.model.tokenSecret" in model
    assert "dataset team/nothing" in data
    assert "spec.data.tokenSecret" in data
    assert not [request for request in hub.requests if "/resolve/" in request.path]


def test_data_has_a_token_of_its_own_or_else_the_models(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens.add("hf_data")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    prepared(config(tmp_path / "one"))
    assert {request.token for request in hub.requests if request.path.startswith("/api")} == {TOKEN}
    hub.requests.clear()
    monkeypatch.setenv("PHITUNE_DATA_TOKEN", "hf_data")
    prepared(config(tmp_path / "two"))
    tokens = {
        request.path.split("/")[2]: request.token for request in hub.requests if "/api/" in request.path
    }
    assert tokens == {"models": TOKEN, "datasets": "hf_data"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The prepare pod's environment; where its termination message will be."""
    (tmp_path / "train.yaml").write_text(config(tmp_path / "volume").to_yaml())
    monkeypatch.setenv("PHITUNE_CONFIG", str(tmp_path / "train.yaml"))
    monkeypatch.setenv("PHITUNE_TERMINATION_LOG", str(tmp_path / "termination.json"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "termination.json"
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("status", "code", "reason", "words"),
    [
        pytest.param(404, 2, "UserError", "is its name right", id="the user's to mend"),
        pytest.param(500, 1, "HubUnavailable", "^http.* answered 500", id="tried again by the Job"),
    ],
)
def test_the_pod_ends_with_a_code_and_words_that_say_whether_to_try_again(
    hub: FakeHub,
    command: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int,
    code: int,
    reason: str,
    words: str,
) -> None:
    monkeypatch.setattr("phitune_trainer.hub_connection.PAUSES", (0.01,))
    hub.faults = [Fault("/revision/main", status=status, times=99)]
    assert prepare_module.main() == code
    message = json.loads(command.read_text())
    assert (message["exitCode"], message["reason"]) == (code, reason)
    assert "Traceback" not in capfd.readouterr().err
    assert re.search(words, message["message"])
