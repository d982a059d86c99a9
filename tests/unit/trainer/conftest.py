"""Builders of these tests: a tiny base model, a few samples, a config, ranks as processes, and pods."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.ports import free_port
from harness.ranks import run_in_ranks
from harness.train_configs import train_config
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine.world import World
from phitune_trainer.model import load_model

torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path, base_model: Path) -> Path:
    """A volume with a base model and 24 samples; answers differ in length, every fourth has no picture."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(base_model)
    folder = tmp_path / "data" / "colors"
    (folder / "images").mkdir(parents=True)
    rows = [_sample(folder, number, with_picture=number % 4 != 3) for number in range(24)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    return tmp_path


def _sample(folder: Path, number: int, *, with_picture: bool) -> dict[str, Any]:
    images = []
    if with_picture:
        images = [f"{number}.png"]
        Image.new("RGB", (40, 30), (10 * number, 255 - 10 * number, 80)).save(folder / "images" / images[0])
    turn = {
        "images": images,
        "user": "What is shown?",
        "assistant": " ".join(["red", "blue", "one"][: 1 + number % 3]),
    }
    return {"id": str(number), "source": "test", "conversations": [turn]}


COLORS: dict[str, Any] = {
    "run": {"namespace": "tests", "name": "colors", "uid": "00000001"},
    "model": {"path": "models/tiny", "init": None},
    "data": {"path": "data/colors", "generate": None, "eval": None},
    "training": {"maxSteps": 4, "globalBatchSize": 12, "warmupSteps": 1, "schedule": "constant"},
    "checkpoint": {"everySteps": 1000},
    "evaluation": {"enabled": False, "baseline": False},
    "export": {"merged": False},
}
"""Four steps over what lies in `workspace`; neither scored nor exported."""


@pytest.fixture
def make_config(workspace: Path) -> Callable[..., TrainConfig]:
    """A config over `workspace` like COLORS but for groups of fields, such as training={"maxSteps": 3}."""
    return lambda **changes: train_config(workspace, COLORS, changes)


@pytest.fixture(scope="session")
def imported(base_model: Path) -> None:
    """What is slow to import is imported here, before processes are forked."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import torch._dynamo

    load_model(base_model, dtype=torch.float32, attention="sdpa")


@pytest.fixture(scope="session")
def in_ranks(imported: None) -> Callable[[int, Callable[[World], Any]], list[Any]]:
    """Run a function in so many new processes that meet over gloo; what it returned, by rank."""
    return run_in_ranks


@pytest.fixture(name="free_port")
def free_port_fixture() -> Callable[[], int]:
    return free_port


@dataclass
class PodProcess:
    """A launcher as a pod would run it."""

    process: subprocess.Popen[str]
    termination_log: Path

    def wait(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, termination message, and what `kubectl logs` would show."""
        output, _ = self.process.communicate(timeout=200)
        written = self.termination_log.read_bytes()
        assert len(written) <= 4096
        return self.process.returncode, json.loads(written), output


@pytest.fixture
def start_pod(tmp_path: Path) -> Any:
    """Start a launcher over a config, with variables as in a pod; killed at the end if it still runs."""
    started: list[PodProcess] = []

    def start(config: TrainConfig | Path, command: list[str] | None = None, **variables: str) -> PodProcess:
        number = len(started)
        if isinstance(config, TrainConfig):
            path = tmp_path / f"train-{number}.yaml"
            path.write_text(config.to_yaml())
        else:
            path = config
        environment = {
            **os.environ,
            "PHITUNE_CONFIG": str(path),
            "PHITUNE_TERMINATION_LOG": str(tmp_path / f"termination-{number}"),
            "PHITUNE_PROGRESS_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        process = subprocess.Popen(
            [*(command or []), sys.executable, "-m", "phitune_trainer.launch"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(PodProcess(process, tmp_path / f"termination-{number}"))
        return started[-1]

    yield start
    for pod in started:
        if pod.process.poll() is None:
            pod.process.kill()
        pod.process.wait()
        if pod.process.stdout is not None:
            pod.process.stdout.close()


def wait_until(happened: Callable[[], Any], seconds: float = 200) -> Any:
    """Poll until `happened` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.02)
    return result


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    return wait_until
