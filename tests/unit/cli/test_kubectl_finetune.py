"""The command `kubectl finetune` itself, as far as it needs no cluster."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.answering_cluster import api_server, kubeconfig
from harness.cluster import REPOSITORY
from phitune_cli.finetune.connection import Cluster, Target
from phitune_cli.finetune.main import COMMANDS, main
from phitune_cli.finetune.problems import WrongInput
from phitune_cli.finetune.upload_cmd import what_next
from phitune_cli.finetune.volumes import image_of_operator

SUBMIT = ["submit", "receipts", "--task", "jsonl", "--data", "receipts", "--method", "lora", "--claim", "big"]


def test_kubectl_finds_the_plugin_by_its_name() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["kubectl-finetune"] == "phitune_cli.finetune.main:main"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_an_example_on_80_columns(
    command: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*([command] if command else []), "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"kubectl finetune {command or 'submit'}" in said.partition("example")[2]
    assert max(map(len, said.splitlines())) <= 80


def test_help_asks_nothing_of_the_cluster_and_imports_none_of_its_client() -> None:
    code = """
import contextlib, sys
from phitune_cli.finetune.main import COMMANDS, main
for command in COMMANDS:
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
assert len(COMMANDS) == 10
assert not {"torch", "transformers", "kubernetes", "websocket", "aiohttp"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_job_is_described_by_options_and_is_kept_with_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--nodes",
        "2",
        "--gpus",
        "8",
        "--set",
        "training.numCrops=4",
        "--set",
        "spec.freezeVision=true",
    ]
    assert main([*SUBMIT, *options, "-n", "team-a", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "apiVersion": "phitune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "receipts", "namespace": "team-a"},
        "spec": {
            "task": "jsonl",
            "method": "lora",
            "data": {"path": "receipts"},
            "resources": {"nodes": 2, "gpusPerNode": 8},
            "storage": {"claimName": "big"},
            "training": {"numCrops": 4},
            "freezeVision": True,
        },
    }
    assert main([*SUBMIT, "--dry-run", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "FineTuneJob"


@pytest.mark.parametrize("is_scored", [True, False])
def test_what_upload_says_comes_next_makes_a_job_of_all_that_was_uploaded(
    is_scored: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    said = what_next("receipts of may", "big", "team-a", is_scored=is_scored)
    assert max(map(len, said.splitlines())) <= 80
    command = said.removeprefix("next: kubectl finetune ").replace("\\\n", "").replace("NAME", "receipts")
    assert main([*shlex.split(command), "--dry-run"]) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    assert job["metadata"]["namespace"] == "team-a"
    assert job["spec"]["storage"] == {"claimName": "big"}
    assert job["spec"]["training"] == {"epochs": 3, "learningRate": 2e-4}, "not the rate of full fine-tuning"
    assert job["spec"]["data"] == {"path": "receipts of may"} | ({"eval": "eval.jsonl"} if is_scored else {})


def test_everything_that_is_wrong_with_a_job_is_said_before_a_cluster_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = ["--set", "training.numCrops=99", "--set", "trainig.seed=1", "--kubeconfig", "/none"]
    assert main([*SUBMIT, *wrong]) == 2
    said = capsys.readouterr().err
    assert "spec.training.numCrops: " in said
    assert "did you mean training?" in said


@pytest.mark.parametrize("setting", ["training.numCrops", "=4", "a..b=1", "a={"])
def test_a_setting_that_is_none_is_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*SUBMIT, "--set", setting])
    assert ended.value.code == 2
    assert "--set" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_told_within_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()
    assert main(["status", "--kubeconfig", kubeconfig(tmp_path, f"http://127.0.0.1:{port}")]) == 69
    assert time.monotonic() - started < 10
    assert f"the cluster at http://127.0.0.1:{port} does not answer: " in capsys.readouterr().err


def test_a_cluster_that_says_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.connection.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["status", "--kubeconfig", kubeconfig(tmp_path, address)]) == 69
    assert "does not answer: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "answer", "code", "words"),
    [
        pytest.param(401, {"reason": "Unauthorized"}, 77, "log in again", id="who are you?"),
        pytest.param(
            403,
            {
                "reason": "Forbidden",
                "message": 'x is forbidden: User "\x1b[2J" cannot list resource "x" in API group "y"',
            },
            77,
            "lists the rights",
            id="not allowed",
        ),
        pytest.param(
            403,
            {"reason": "Forbidden", "message": 'x is forbidden: User "u" cannot get path "/y"'},
            77,
            "lists the rights",
            id="not allowed, of no resource",
        ),
        pytest.param(
            403,
            {"reason": "Forbidden", "message": "x is forbidden: exceeded quota: gpus"},
            2,
            "kubectl finetune: x is forbidden: exceeded quota: gpus\n",
            id="refused",
        ),
        pytest.param(404, {"reason": "NotFound", "message": "no \x1b[2J"}, 2, "no \\x1b[2J", id="not there"),
        pytest.param(404, "404 page not found", 2, "install the chart", id="no such kind"),
        pytest.param(500, {"message": "etcd is gone"}, 69, "etcd is gone", id="it is ill"),
    ],
)
def test_what_a_cluster_answers_becomes_words_and_a_code(
    status: int, answer: Any, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(status, answer) as address:
        assert main(["status", "--kubeconfig", kubeconfig(tmp_path, address)]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "before",
    [
        ["-n", "team-b"],
        ["-nteam-b"],
        ["--namespace=team-b"],
        ["--context", "a", "--namespace", "team-b"],
    ],
)
def test_the_namespace_may_be_named_before_the_command_as_to_kubectl(
    before: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(404, {}, {"/namespaces/team-b/finetunejobs": (200, {"items": []})}) as address:
        config = ["--kubeconfig", kubeconfig(tmp_path, address)]
        assert main([*config, *before, "status", "--once"]) == 0
    assert "no FineTuneJobs in namespace team-b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "team-a", "--help"], "commands:"),
        (["-o", "json", "status"], "options come after the command, as in kubectl finetune status -o json"),
        (["-n", "team-a", "-o", "json", "status"], "as in kubectl finetune status -o json"),
        (["-n", "team-a", "stats"], "no command 'stats': did you mean status?"),
    ],
)
def test_other_options_before_the_command_are_told_their_place(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in "".join(capsys.readouterr())


def test_a_namespace_without_a_command_is_answered_with_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-n", "team-a"]) == 2
    assert "commands:" in capsys.readouterr().err


NO_NAMES = ("a/b", "..", "a?watch=1", "a b", "A", "-a", "a..b", "a" * 254, "\x1b[2J")


@pytest.mark.parametrize("name", ["", *NO_NAMES])
@pytest.mark.parametrize(
    "command",
    [
        ["status", "{}"],
        ["logs", "{}"],
        ["top", "{}"],
        ["report", "{}"],
        ["download", "{}"],
        ["suspend", "{}"],
        ["resume", "{}"],
        ["upload", ".", "--claim={}"],
    ],
)
def test_what_is_no_name_never_becomes_part_of_a_request(
    command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*(word.format(name) for word in command), "--kubeconfig", "/none"])
    assert ended.value.code == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_namespace_does_not_either(name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", f"--namespace={name}", "--kubeconfig", "/none"])
    assert ended.value.code == 2


def test_an_empty_namespace_is_that_of_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-n", "", "--kubeconfig", "/none"]) == 2
    assert "the kubeconfig /none: there is no such file" in capsys.readouterr().err


def test_names_with_dots_and_digits_are_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "1.receipts-of.may", "--kubeconfig", "/none"]) == 2
    assert "the kubeconfig /none: there is no such file" in capsys.readouterr().err


def test_a_screen_that_is_refreshed_waits_for_a_cluster_that_is_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.status_cmd._SECONDS", 0.01)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    ill = (500, {"message": "etcdserver: leader changed"})
    jobs = [
        {
            "metadata": {"name": "a", "namespace": "b", "creationTimestamp": "2026-11-21T12:00:00Z"},
            "spec": {"task": "jsonl", "method": "full"},
            "status": {"phase": phase},
        }
        for phase in ("Running", "Succeeded")
    ]
    answers = iter([(200, jobs[0]), ill, ill, (200, jobs[1])])
    with api_server(404, {}, {"/finetunejobs/a": lambda _: next(answers)}) as address:
        assert main(["status", "a", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    out, err = capsys.readouterr()
    assert out.count("Running") == 1
    assert "Succeeded" in out
    assert err.count("leader changed") == 1
    assert "the cluster answers again" in err


def test_a_job_with_a_hostile_status_does_not_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {
        "metadata": {"name": "a", "namespace": "b", "creationTimestamp": "2026-11-21T12:00:00Z"},
        "spec": {"task": "jsonl", "method": "full"},
        "status": {"phase": "\x1b]0;title\x07"},
    }
    with api_server(200, job) as address:
        assert main(["status", "a", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_answer_that_breaks_off_is_told_as_a_cluster_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(2**16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=[server])
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert main(["status", "--kubeconfig", kubeconfig(tmp_path, address)]) == 69
        thread.join()
    assert "does not answer: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a: [", "- 1", "current-context: a\ncontexts: 5"])
def test_a_kubeconfig_that_is_none_is_told(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    assert main(["status", "--kubeconfig", str(tmp_path / "kubeconfig")]) == 2
    assert "the kubeconfig cannot be read: " in capsys.readouterr().err


def test_without_a_context_the_user_is_told_to_choose_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    assert main(["status", "--kubeconfig", str(tmp_path / "empty")]) == 2
    assert "no cluster is chosen: " in capsys.readouterr().err


@pytest.mark.parametrize("named", ["no/such", "no/such:nor/this"])
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_kubeconfig_that_is_not_there_is_named(by: str, named: str) -> None:
    options, variable = (["--kubeconfig", named], "another/file") if by == "option" else ([], named)
    command = [sys.executable, "-m", "phitune_cli.finetune.main", "status", *options]
    environment = {**os.environ, "KUBECONFIG": variable}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = f"the kubeconfig {named.replace(':', ', ')}: there is no such file"
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"{told}\n")


def operator(**variable: str) -> dict[str, Any]:
    container = {"env": [{"name": "PHITUNE_TRAINER_IMAGE", **variable}]}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


@pytest.mark.parametrize(
    ("operators", "image"),
    [
        pytest.param([operator(value="ours:1")], "ours:1", id="one"),
        pytest.param([operator(value="ours:1")] * 2, "ours:1", id="two alike"),
        pytest.param([operator(value="evil:1"), operator(value="ours:1")], None, id="one is false"),
        pytest.param([operator()], None, id="not told"),
        pytest.param([], None, id="none"),
    ],
)
def test_no_label_of_others_decides_which_image_opens_the_claim(
    operators: list[dict[str, Any]], image: str | None, tmp_path: Path
) -> None:
    with api_server(200, {"items": operators}) as address:
        cluster = Cluster.connect(Target(kubeconfig(tmp_path, address)))
        if image is not None:
            assert image_of_operator(cluster) == image
        else:
            with pytest.raises(WrongInput, match="with --image"):
                image_of_operator(cluster)
