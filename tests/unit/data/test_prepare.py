"""What is on the volume before training starts."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.nobody import nobody
from harness.train_configs import train_config
from phitune_trainer.config import TrainConfig
from phitune_trainer.data import DataError
from phitune_trainer.errors import UserError
from phitune_trainer.model_config import ModelFilesError
from phitune_trainer.prepare import prepare

torch.set_num_threads(1)


def config(workspace: Path, **changes: dict[str, Any]) -> TrainConfig:
    """A job that makes its own model and data."""
    return train_config(workspace, changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume on which two jobs were prepared at once."""
    workspace = tmp_path_factory.mktemp("volume")
    with ThreadPoolExecutor() as pool:
        said: list[list[str]] = [[], []]
        list(pool.map(lambda lines: prepare(config(workspace), lines.append), said))
    assert any("making" in line for lines in said for line in lines)
    return workspace


def write_jsonl(workspace: Path, *lines: str) -> dict[str, Any]:
    """A data folder of the user's own; the config's `data` for it."""
    folder = workspace / "data" / "mine"
    (folder / "images").mkdir(parents=True)
    (folder / "train.jsonl").write_text("\n".join(lines))
    return {"path": "data/mine", "generate": None, "eval": None}


MODEL_OF_THEIR_OWN = {"path": "models/mine", "init": None}
NO_EVALUATION = {"enabled": False, "baseline": False}
TEXT_LINE = json.dumps({"conversations": [{"user": "which", "assistant": "7"}]})


def test_jobs_that_prepare_one_volume_at_once_leave_one_model_and_one_data_set(prepared: Path) -> None:
    assert [path.name for path in (prepared / "models" / "init-tiny").iterdir()] == [
        config(prepared).model_dir.name
    ]
    assert [path.name for path in (prepared / "data").iterdir()] == ["digits"]
    assert sorted(path.name for path in prepared.iterdir()) == ["costs", "data", "models"]


def test_what_is_there_is_checked_and_left_alone(prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    said: list[str] = []
    prepare(config(prepared), said.append)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before
    assert not any("making" in line for line in said)
    assert any("1,497 pictures, and all are there" in line for line in said)
    assert any("1,497 samples to train on; 300 held out to score" in line for line in said)
    assert any("parameters" in line for line in said)


def test_another_seed_gets_a_model_of_its_own(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path, TEXT_LINE)
    folders = set()
    for seed in (0, 1):
        job = config(tmp_path, data=data, evaluation=NO_EVALUATION, training={"seed": seed})
        prepare(job, lambda _: None)
        folders.add(job.model_dir)
    assert len(folders) == 2
    assert all((folder / "config.json").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", r"mine/train\.jsonl:2: not JSON", id="malformed"),
        pytest.param(
            json.dumps({"conversations": [{"images": ["a.png"], "user": "", "assistant": "7"}]}),
            r"mine/train\.jsonl:2: picture 'a\.png': not found",
            id="picture missing",
        ),
    ],
)
def test_bad_data_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    data = write_jsonl(tmp_path, TEXT_LINE, line)
    with pytest.raises(DataError, match=message):
        prepare(config(tmp_path, data=data, evaluation=NO_EVALUATION), lambda _: None)


def test_a_file_for_evaluation_that_is_missing_is_named(tmp_path: Path) -> None:
    data = {**write_jsonl(tmp_path, TEXT_LINE), "eval": "eval.jsonl"}
    with pytest.raises(DataError, match=r"mine/eval\.jsonl: cannot be read: No such file"):
        prepare(config(tmp_path, data=data), lambda _: None)


def test_a_base_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"models/mine/config\.json: not found"):
        prepare(config(tmp_path, model=MODEL_OF_THEIR_OWN), lambda _: None)


def test_a_base_model_that_is_incomplete_is_named(prepared: Path) -> None:
    weights = next(config(prepared).model_dir.glob("*.safetensors"))
    aside = weights.rename(weights.with_suffix(".aside"))
    with pytest.raises(ModelFilesError, match=r"00001-of-00001\.safetensors: not found"):
        prepare(config(prepared), lambda _: None)
    aside.rename(weights)


def test_a_volume_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o555)
    with nobody(tmp_path), pytest.raises(UserError, match=f"cannot write {volume}.*permission denied"):
        prepare(config(volume), lambda _: None)


def run(job: TrainConfig, folder: Path) -> subprocess.Popen[str]:
    """The prepare pod's command."""
    (folder / "train.yaml").write_text(job.to_yaml())
    env = {
        "PHITUNE_CONFIG": str(folder / "train.yaml"),
        "PHITUNE_TERMINATION_LOG": str(folder / "termination.json"),
        "PHITUNE_ATTEMPT": "1",
    }
    command = [sys.executable, "-m", "phitune_trainer.prepare"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_command_leaves_a_termination_message_and_exit_code_0(prepared: Path, tmp_path: Path) -> None:
    process = run(config(prepared), tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert all(line.startswith("prepare: ") for line in output.splitlines())
    message = json.loads((tmp_path / "termination.json").read_text())
    assert (message["exitCode"], message["reason"], message["failure"]) == (0, "Completed", None)


def test_an_error_of_the_user_ends_with_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    process = run(config(tmp_path / "volume", model=MODEL_OF_THEIR_OWN), tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert "Traceback" not in output
    message = json.loads((tmp_path / "termination.json").read_text())
    assert (message["exitCode"], message["reason"]) == (2, "UserError")
    assert "models/mine/config.json: not found" in message["message"]


@pytest.mark.slow
def test_stopped_in_the_middle_it_leaves_nothing_half_made(tmp_path: Path) -> None:
    workspace = tmp_path / "volume"
    process = run(config(workspace), tmp_path)
    while process.poll() is None and not list(workspace.glob("data/.digits.*.partial")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert list((workspace / "data").iterdir()) == []
    assert json.loads((tmp_path / "termination.json").read_text())["reason"] == "Interrupted"
