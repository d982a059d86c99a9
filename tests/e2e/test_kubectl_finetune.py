"""The README's commands from a folder to an answer, by a user with the documented rights.

Added to them: the trainer's image, one epoch instead of four, and a smaller request of CPU.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from harness.cluster import Object
from harness.documented import commands_in_blocks, page
from harness.lab import Lab
from harness.user import User

pytestmark = pytest.mark.timeout(600)

BIG = 96 * 2**20
"""Bytes of a file that takes long enough to be interrupted."""

SHA256 = """
import hashlib, json, pathlib
top = pathlib.Path("/workspace/digits")
print(json.dumps({path.relative_to(top).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                  for path in top.rglob("*") if path.is_file()}))
"""

LONG = (
    *("--task", "jsonl", "--data", "digits", "--claim", "mine", "--method", "lora", "--gpus", "0"),
    *("--nodes", "2", "--global-batch", "16"),
    *("--set", "model.init=tiny", "--set", "training.numCrops=1", "--set", "training.maxLength=256"),
    *("--set", "training.maxSteps=100000", "--set", "checkpoint.everySteps=5"),
    *("--set", "resources.cpu=200m", "--set", "resources.memory=2Gi"),
)
"""Options of a job that does not end by itself."""


def shown_role() -> Object:
    """The rights that the page says are needed."""
    (text,) = re.findall(r"```yaml\n(.*?)```", page("docs/command-line.md"), re.DOTALL)
    role: Object = yaml.safe_load(text)
    return role


def shown_commands() -> dict[str, list[str]]:
    """The words of each command from the folder to the answer, by the subcommand; programs left out."""
    found = list(commands_in_blocks(page("README.md")))
    first = next(number for number, words in enumerate(found) if words[:3] == ["phitune", "data", "digits"])
    last = next(number for number, words in enumerate(found) if words[:2] == ["phitune", "predict"])
    commands = [words[2:] if words[0] == "kubectl" else words[1:] for words in found[first : last + 1]]
    return {" ".join(words[:2]) if words[0] == "data" else words[0]: words for words in commands}


def test_the_readme_leads_from_a_folder_to_an_answer(lab: Lab, tmp_path: Path) -> None:
    user = User.of(lab.cluster, lab.namespace, shown_role(), tmp_path)
    shown = shown_commands()
    steps = ["data digits", "data check", "upload", "submit", "logs", "status", "download", "predict"]
    assert list(shown) == steps
    user.phitune(*shown["data digits"])
    assert "no problems" in user.phitune(*shown["data check"])
    upload_what_is_cut_off_once(lab, user, [*shown["upload"], "--image", lab.trainer_image])

    user.finetune("submit", "long", *LONG)
    # Fewer epochs: here it has to learn something, not all.
    said = user.finetune(*shown["submit"], "--epochs", "1", "--set", "resources.cpu=200m")
    assert "kubectl finetune logs mine" in said
    long = user.start("logs", "long", "-f", output=tmp_path / "long.log")
    mine = user.start(*shown["logs"], output=tmp_path / "mine.log")
    try:
        look_at_a_job_that_trains(lab, user, tmp_path)
        restart_one_and_stop_it(lab, user)
        assert mine.wait(timeout=240) == 0, "it ends with the job"
        assert user.interrupted(long) == 130
    finally:
        for follower in (long, mine):
            follower.kill()
            follower.wait()
    assert {"prepare", "1/0", "2/0"} <= sources(tmp_path / "long.log"), "it goes on into the next attempt"
    assert "[1/0] done: 47 steps" in (tmp_path / "mine.log").read_text(encoding="utf-8")

    assert "exactMatch" in user.finetune(*shown["status"])
    download_the_export(user, shown["download"])
    assert re.fullmatch(r"\d", user.phitune(*shown["predict"]).strip())

    lab.wait("end of the helper pods", lambda: not helper_pods(lab), timeout=30)
    code, words = user.refused("status", "none")
    assert code == 2
    assert words.endswith(f"no FineTuneJob none in namespace {lab.namespace}; there are: long, mine\n")
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
    lab.wait(
        "step of attempt 2 in its log", lambda: "[2/0] step " in user.finetune("logs", "long"), timeout=240
    )
    seen = user.finetune("logs", "long")
    assert "[1/0] step " in seen, "a pod of attempt 2 reads what attempt 1 has left on the volume"

    user.finetune("suspend", "long")
    lab.wait_for_condition("long", "Suspended", "True")
    seen = user.finetune("logs", "long", "--from-volume")
    assert "[1/0] step " in seen
    assert "[2/0] step " in seen
    user.finetune("resume", "long")
    lab.wait_for_condition("long", "Suspended", "False")
    user.finetune("suspend", "long")


def sources(log: Path) -> set[str]:
    """Whose lines there are: prepare, or attempt and rank."""
    return set(re.findall(r"^\[(prepare|\d+/\d+)\] ", log.read_text(encoding="utf-8"), re.MULTILINE))


def upload_what_is_cut_off_once(lab: Lab, user: User, command: list[str]) -> None:
    """Upload; the first time Ctrl-C is pressed while a big file is on its way."""
    data, log = user.folder / "digits", user.folder / "upload.log"
    (data / "big.bin").write_bytes(hashlib.shake_128(b"big").digest(BIG))
    without = [word for word in command if word not in ("--create", command[command.index("--create") + 1])]
    assert user.refused(*without)[0] == 2, "there is no claim, and nobody asked for one"
    begun = user.start(*command, output=log)
    lab.wait("helper pod that runs", lambda: "Running" in helper_pods(lab), timeout=90)
    lab.cluster.kubectl("exec", helper_name(lab), "-n", lab.namespace, "--", "python3", "-c", HAS_PART)
    assert user.interrupted(begun) == 75, log.read_text()
    assert "the same command goes on" in log.read_text()
    lab.wait("end of the helper pod", lambda: not helper_pods(lab), timeout=30)

    sent = json.loads(user.finetune(*command, "-o", "json"))
    hashes = {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*")
        if path.is_file()
    }
    assert sent["files"] == len(hashes) > 1000
    everything = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    assert 0 < sent["bytesSent"] < everything, "what had arrived was not sent again"
    assert json.loads(lab.on_claim("mine", SHA256)) == hashes


HAS_PART = """
import pathlib, time
while not any(path.stat().st_size for path in pathlib.Path("/workspace/digits").glob("big.bin*")):
    time.sleep(0.01)
"""


def download_the_export(user: User, command: list[str]) -> None:
    """Download it twice: the second time all of it is here."""
    assert "all hashes agree" in user.finetune(*command)
    again = json.loads(user.finetune(*command, "-o", "json"))
    assert again["files"] == again["filesKept"] > 3
    assert again["bytesFetched"] == 0


def helper_pods(lab: Lab) -> list[str]:
    """Phases of the helper pods that there are."""
    found = lab.cluster.list("pods", lab.namespace, "app.kubernetes.io/managed-by=kubectl-finetune")
    return [pod["status"].get("phase", "") for pod in found]


def helper_name(lab: Lab) -> str:
    (pod,) = lab.cluster.list("pods", lab.namespace, "app.kubernetes.io/managed-by=kubectl-finetune")
    name: str = pod["metadata"]["name"]
    return name
