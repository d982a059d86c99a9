"""The command `kubectl finetune` itself, as far as it needs no cluster."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_cli.finetune.helper_pod import manifest, why_it_waits
from phitune_cli.finetune.main import COMMANDS, main

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


def kubeconfig(folder: Path, server: str) -> str:
    file = folder / "kubeconfig"
    config = {
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "team-a"}}],
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)


@contextmanager
def api_server(status: int, body: Any) -> Iterator[str]:
    """Gives the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Not for people."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
            {"reason": "Forbidden", "message": "x is forbidden: \x1b[2J"},
            77,
            "lists the rights",
            id="no",
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


@pytest.mark.parametrize("file", ["none", "empty"])
def test_without_a_kubeconfig_the_user_is_told_to_choose_a_cluster(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    assert main(["status", "--kubeconfig", str(tmp_path / file)]) == 2
    assert "no cluster is chosen: " in capsys.readouterr().err


def test_a_helper_pod_is_what_restricted_namespaces_admit() -> None:
    pod = manifest("phitune-volume-a", "claim." + "x" * 80, "image:1", pull_secrets=["s"], beside="receipts")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(len(value) <= 63 for value in pod["metadata"]["labels"].values())


def test_a_helper_pod_that_waits_says_for_what_and_one_that_waits_in_vain_ends() -> None:
    pulled = {"image": "x:1", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}}
    assert why_it_waits({"containerStatuses": [pulled]}) == (
        "ErrImagePull: no such tag (image x:1); --image names another",
        True,
    )
    placed = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}
    assert why_it_waits({"conditions": [placed]}) == ("Unschedulable: no nodes", False)
    assert why_it_waits({}) == ("", False)
