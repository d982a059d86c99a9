"""`kubectl finetune` as its page shows it: a user with the page's rights, from a folder to a model."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from harness.cluster import REPOSITORY, Object
from harness.jsonl_files import write_lines
from harness.lab import Lab
from harness.user import User

pytestmark = pytest.mark.timeout(600)

BIG = 96 * 2**20
"""Bytes of a file that takes long enough to be interrupted."""

SHA256 = """
import hashlib, json, pathlib
top = pathlib.Path("/workspace/receipts")
print(json.dumps({path.relative_to(top).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                  for path in top.rglob("*") if path.is_file()}))
"""

JOB = (
    *("--task", "jsonl", "--data", "receipts", "--claim", "receipts", "--method", "lora"),
    *("--gpus", "0", "--global-batch", "16", "--learning-rate", "1e-3"),
    *("--set", "model.init=tiny", "--set", "training.numCrops=1", "--set", "training.maxLength=256"),
    *("--set", "checkpoint.everySteps=5", "--set", "evaluation.enabled=false"),
    *("--set", "resources.cpu=200m", "--set", "resources.memory=2Gi"),
)
"""Options of a job that learns next to nothing."""


def shown_role() -> Object:
    """The rights that the page says are needed."""
    page = (REPOSITORY / "docs/command-line.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    role: Object = yaml.safe_load(text)
    return role


def make_data(folder: Path) -> dict[str, str]:
    """A folder to train on, with a file that is big; the hash of each file."""
    (folder / "images").mkdir(parents=True)
    for number in range(32):
        Image.new("RGB", (32, 32), (8 * number, 0, 0)).save(folder / f"images/{number}.png")
    lines = [
        {"conversations": [{"images": [f"{number}.png"], "user": "How red?", "assistant": str(number)}]}
        for number in range(32)
    ]
    write_lines(folder / "train.jsonl", *lines)
    (folder / "big.bin").write_bytes(hashlib.shake_128(b"big").digest(BIG))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_becomes_a_model_by_the_plugin_alone(lab: Lab, tmp_path: Path) -> None:
    user = User.of(lab.cluster, lab.namespace, shown_role(), tmp_path)
    hashes = make_data(tmp_path / "receipts")
    upload_what_is_cut_off_once(lab, user, tmp_path, hashes)

    user.finetune("submit", "long", *JOB, "--nodes", "2", "--set", "training.maxSteps=100000")
    assert "kubectl finetune logs quick" in user.finetune("submit", "quick", *JOB, "--epochs", "5")
    followers = {name: user.start("logs", name, "-f", output=tmp_path / name) for name in ("long", "quick")}
    try:
        look_at_a_job_that_trains(lab, user, tmp_path)
        restart_one_and_stop_it(lab, user)
        assert followers["quick"].wait(timeout=240) == 0, "it ends with the job"
        assert user.interrupted(followers["long"]) == 130
    finally:
        for follower in followers.values():
            follower.kill()
            follower.wait()
    assert {"prepare", "1/0", "2/0"} <= sources(tmp_path / "long"), "it goes on into the next attempt"
    assert "[1/0] done: 10 steps" in (tmp_path / "quick").read_text(encoding="utf-8")

    download_the_export(user, tmp_path)
    lab.wait("end of the helper pods", lambda: not helper_pods(lab), timeout=30)
    code, words = user.refused("status", "none")
    assert code == 2
    assert words.endswith(f"no FineTuneJob none in namespace {lab.namespace}; there are: long, quick\n")
    code, words = user.refused("status", "-n", "kube-system")
    assert code == 77, words
    assert "docs/command-line.md lists the rights" in words


def look_at_a_job_that_trains(lab: Lab, user: User, folder: Path) -> None:
    """status, top and report of the long job."""
    lab.wait_for_step("long", 1)
    assert "images/s" in user.finetune("status", "long")
    told = lab.wait("answer of rank 0", lambda: json.loads(user.finetune("top", "long", "-o", "json")))
    assert told[0]["job"] == "long"
    assert told[0]["memoryBytes"] > 2**20
    page = folder / "now.html"
    user.finetune("report", "long", "--to", str(page))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>"), "of a run that still trains"


def restart_one_and_stop_it(lab: Lab, user: User) -> None:
    """What attempts say whose pods are gone: while a pod of the next one runs, and when none does."""
    lab.cluster.kubectl("delete", "pod", "long-1-worker-0", "-n", lab.namespace, "--wait=false")
    lab.wait_for_step("long", 1, attempt=2)
    lab.wait("step of attempt 2 in its log", lambda: "[2/0] step " in user.finetune("logs", "long"))
    seen = user.finetune("logs", "long")
    assert "[1/0] step " in seen, "a pod of attempt 2 reads what attempt 1 has left on the volume"

    user.finetune("suspend", "long")
    lab.wait_for_condition("long", "Suspended", "True")
    seen = user.finetune("logs", "long", "--from-volume")
    assert "[1/0] step " in seen
    assert "[2/0] step " in seen
    user.finetune("resume", "long")
    lab.wait_for_condition("long", "Suspended", "False")


def sources(log: Path) -> set[str]:
    """Whose lines there are: prepare, or attempt and rank."""
    return set(re.findall(r"^\[(prepare|\d+/\d+)\] ", log.read_text(encoding="utf-8"), re.MULTILINE))


def upload_what_is_cut_off_once(lab: Lab, user: User, folder: Path, hashes: dict[str, str]) -> None:
    """Upload; the first time Ctrl-C is pressed while the big file is on its way."""
    command = ["upload", str(folder / "receipts"), "--claim", "receipts", "--image", lab.trainer_image]
    assert user.refused(*command)[0] == 2, "there is no claim, and nobody asked for one"
    begun = user.start(*command, "--create", "1Gi", output=folder / "upload.log")
    lab.wait("helper pod that runs", lambda: "Running" in helper_pods(lab), timeout=90)
    arriving = ["exec", helper_name(lab), "-n", lab.namespace, "--", "python3", "-c", HAS_PART]
    lab.cluster.kubectl(*arriving)
    assert user.interrupted(begun) == 75, (folder / "upload.log").read_text()
    assert "the same command goes on" in (folder / "upload.log").read_text()
    lab.wait("end of the helper pod", lambda: not helper_pods(lab), timeout=30)

    sent = json.loads(user.finetune(*command, "-o", "json"))
    assert sent["files"] == len(hashes) == 34
    assert 0 < sent["bytesSent"] < BIG, "what had arrived was not sent again"
    assert json.loads(lab.on_claim("receipts", SHA256)) == hashes


HAS_PART = """
import pathlib, time
while not any(path.stat().st_size for path in pathlib.Path("/workspace/receipts").glob("big.bin*")):
    time.sleep(0.01)
"""


def download_the_export(user: User, folder: Path) -> None:
    """Download it twice: the second time all of it is here."""
    target = folder / "quick-model"
    assert "all hashes agree" in user.finetune("download", "quick", "--to", str(target))
    again = json.loads(user.finetune("download", "quick", "--to", str(target), "-o", "json"))
    assert again["files"] == again["filesKept"] > 3
    assert again["bytesFetched"] == 0
    assert (target / "config.json").is_file()


def helper_pods(lab: Lab) -> list[str]:
    """Phases of the helper pods that there are."""
    found = lab.cluster.list("pods", lab.namespace, "app.kubernetes.io/managed-by=kubectl-finetune")
    return [pod["status"].get("phase", "") for pod in found]


def helper_name(lab: Lab) -> str:
    (pod,) = lab.cluster.list("pods", lab.namespace, "app.kubernetes.io/managed-by=kubectl-finetune")
    name: str = pod["metadata"]["name"]
    return name
