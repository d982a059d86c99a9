"""The command `kubectl finetune` itself, as far as it needs no cluster."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import REPOSITORY
from phitune_cli.finetune.connection import Cluster, Target
from phitune_cli.finetune.helper_pod import is_in_vain, manifest, nodes_with, why_it_waits
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
def api_server(status: int, body: Any, others: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Gives the same answer to everything but `others`, by the ends of their paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = (answer for end, answer in (others or {}).items() if path.endswith(end))
            chosen = next(found, (status, body))
            code, answer = chosen(self.path) if callable(chosen) else chosen
            is_log = isinstance(answer, str) and code == 200
            text = answer.encode() if is_log else json.dumps(answer).encode()
            self.send_response(code)
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


@pytest.mark.parametrize("file", ["none", "empty"])
def test_without_a_kubeconfig_the_user_is_told_to_choose_a_cluster(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    assert main(["status", "--kubeconfig", str(tmp_path / file)]) == 2
    assert "no cluster is chosen: " in capsys.readouterr().err


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


LOGS: dict[str, tuple[int, Any]] = {
    "/finetunejobs/receipts": (
        200,
        {"metadata": {"name": "receipts", "uid": "u"}, "spec": {}, "status": {"attempt": 1}},
    ),
    "/pods": (
        200,
        {
            "items": [
                {
                    "metadata": {
                        "name": f"receipts-1-{name}",
                        "labels": {"phitune.dev/role": "trainer", "phitune.dev/attempt": "1", **labels},
                    },
                    "status": {"phase": "Running"},
                }
                for name, labels in (("master-0", {"phitune.dev/rank": "0"}), ("worker-0", {}))
            ]
        },
    ),
    "/pods/receipts-1-master-0/log": (200, "2026-11-21T12:00:00Z it diverges"),
    "/pods/receipts-1-worker-0/log": (500, {"message": "dial tcp: i/o timeout"}),
}


def test_logs_of_a_lost_node_do_not_hide_those_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(404, {}, LOGS) as address:
        assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    out, err = capsys.readouterr()
    assert out == "[1/0] it diverges\n"
    assert "[1/1] no log of pod receipts-1-worker-0: the API server says: dial tcp: i/o timeout" in err

    lost = {**LOGS, "/pods/receipts-1-master-0/log": LOGS["/pods/receipts-1-worker-0/log"]}
    with api_server(404, {}, lost) as address:
        assert main(["logs", "receipts", "--kubeconfig", kubeconfig(tmp_path, address)]) == 69


def test_a_log_whose_connection_ends_before_its_pod_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.logs_cmd._POLL_SECONDS", 0.05)
    name, job = "receipts-1-master-0", LOGS["/finetunejobs/receipts"][1]
    first, second = "2026-11-21T12:00:00.1Z first", "2026-11-21T12:00:00.2Z second"
    asked: list[str] = []

    def log(query: str) -> tuple[int, Any]:
        asked.append(query)
        return 200, first if len(asked) == 1 else f"{first}\n{second}"

    def pod() -> dict[str, Any]:
        return {**LOGS["/pods"][1]["items"][0], "status": {"phase": "Succeeded" if asked[1:] else "Running"}}

    answers = {
        "/finetunejobs/receipts": lambda _: (
            200,
            {**job, "status": {"attempt": 1, "phase": "Succeeded" if asked[1:] else "Running"}},
        ),
        "/pods": lambda _: (200, {"items": [pod()]}),
        f"/pods/{name}/log": log,
        f"/pods/{name}": lambda _: (200, pod()),
    }
    with api_server(404, {}, answers) as address:
        assert main(["logs", "receipts", "-f", "--kubeconfig", kubeconfig(tmp_path, address)]) == 0
    assert capsys.readouterr().out == "[1/0] first\n[1/0] second\n"
    assert "sinceTime" not in asked[0]
    assert "sinceTime=2026-11-21T12%3A00%3A00.1Z" in asked[1]


def test_a_helper_pod_is_what_restricted_namespaces_admit() -> None:
    pod = manifest("phitune-volume-a", "claim." + "x" * 80, "image:1", pull_secrets=["s"])
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
        "ErrImagePull",
    )
    placed = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}
    assert why_it_waits({"conditions": [placed]}) == ("Unschedulable: no nodes", "Unschedulable")
    assert why_it_waits({}) == ("", "")


@pytest.mark.parametrize(
    ("reason", "seconds", "in_vain"),
    [
        pytest.param("ErrImagePull", 5, False, id="a registry that failed once is asked again"),
        pytest.param("ImagePullBackOff", 70, True, id="one that fails for a minute is not waited for"),
        pytest.param("InvalidImageName", 0, True, id="a name that is none"),
        pytest.param("Unschedulable", 200, False, id="a node may become free"),
    ],
)
def test_an_image_is_waited_for_as_long_as_it_may_come(reason: str, seconds: float, in_vain: bool) -> None:
    assert is_in_vain(reason, seconds) is in_vain


def test_a_helper_pod_goes_where_the_volume_is_in_use() -> None:
    def having(claim: str, node: str | None, phase: str = "Running") -> dict[str, Any]:
        volumes = [
            {"name": "a", "emptyDir": {}},
            {"name": "b", "persistentVolumeClaim": {"claimName": claim}},
        ]
        spec = {"volumes": volumes} | ({"nodeName": node} if node else {})
        return {"spec": spec, "status": {"phase": phase}}

    pods = [
        having("receipts", "b"),
        having("receipts", "a", "Pending"),
        having("receipts", "b"),
        having("receipts", "gone", "Succeeded"),
        having("receipts", None, "Pending"),
        having("other", "c"),
    ]
    assert nodes_with("receipts", pods) == ["a", "b"]
    wishes = manifest("a", "receipts", "image:1", nodes=["a", "b"])["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = wishes.values()
    assert [one["preference"]["matchFields"][0]["values"] for one in preferred] == [["a"], ["b"]]
    assert "affinity" not in manifest("a", "receipts", "image:1")["spec"]
