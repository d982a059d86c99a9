"""`phitune render --cluster` decides as the operator of that cluster would, by the user's own rights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.documents import job
from phitune_cli.main import main

PAGES = {
    "model": None,
    "data": None,
    "task": "docvqa",
    "method": "lora",
    "training": None,
    "resources": {"nodes": 1, "gpusPerNode": 8},
    "storage": {"size": "1Ti"},
}
WITH_TOKEN = {"model": {"init": None, "tokenSecret": "hub"}}
LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "0",
}
NODE = {
    "metadata": {"name": "gpu-1", "labels": LABELS},
    "spec": {},
    "status": {
        "allocatable": {"nvidia.com/gpu": "8", "cpu": "96", "memory": "1000Gi"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
BUSY = {
    "metadata": {"name": "other"},
    "spec": {
        "nodeName": "gpu-1",
        "containers": [{"resources": {"requests": {"nvidia.com/gpu": "2"}}}],
    },
    "status": {"phase": "Running"},
}


def operator(**environment: str) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    return {
        "metadata": {"name": "phitune"},
        "spec": {"template": {"spec": {"containers": [{"env": variables}]}}},
    }


class Server(ThreadingHTTPServer):
    """An API server that has some objects, and does not allow to read others."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists: dict[str, list[dict[str, Any]]] = {"nodes": [NODE], "pods": [], "deployments": []}
        self.objects: dict[str, dict[str, Any]] = {}
        self.forbidden: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        *_, plural, name = ["", *path.split("/")]
        if self.server.forbidden & {plural, name}:
            words = f'{plural} is forbidden: User "ann" cannot get resource "{plural}" in API group ""'
            self.answer(403, {"reason": "Forbidden", "message": words})
        elif name in self.server.lists:
            self.answer(200, {"items": self.server.lists[name]})
        elif f"{plural}/{name}" in self.server.objects:
            self.answer(200, self.server.objects[f"{plural}/{name}"])
        else:
            self.answer(404, {"reason": "NotFound", "message": f"{path} not found"})

    def answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{serving.server_port}"}}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(change: dict[str, Any] | None = None) -> tuple[int, list[dict[str, Any]], str]:
        document = job({**PAGES, **(change or {})})
        (tmp_path / "job.yaml").write_text(json.dumps(document), encoding="utf-8")
        code = main(
            ["render", "--cluster", "--kubeconfig", str(tmp_path / "kubeconfig"), str(tmp_path / "job.yaml")]
        )
        out, err = capsys.readouterr()
        return code, [found for found in yaml.safe_load_all(out) if found], err

    return call


def test_job_is_decided_with_the_clusters_gpus_and_the_operators_images(server: Server, render: Any) -> None:
    images = json.dumps({"flash": "registry/flash:2", "plain": "registry/plain:2", "v100": ""})
    server.lists["deployments"] = [operator(PHITUNE_TRAINER_IMAGE="all:1", PHITUNE_TRAINER_IMAGES=images)]
    code, objects, err = render()
    assert code == 0, err
    gang = objects[-1]
    template = next(iter(gang["spec"]["pytorchReplicaSpecs"].values()))["template"]["spec"]
    assert template["containers"][0]["image"] == "registry/flash:2"
    assert "NVIDIA-A100-SXM4-80GB" in json.dumps(template["affinity"])
    assert {made["metadata"]["namespace"] for made in objects} == {"team"}
    assert "NVIDIA-A100-SXM4-80GB: fastest GPUs that fit" in err
    assert "of 80 GiB" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resources": {"nodes": 2, "gpusPerNode": 8}}, "NoSuchGPU"),
        ({"storage": {"size": None, "claimName": "mine"}}, "ClaimNotFound"),
        (
            WITH_TOKEN,
            "NoSecret: spec.model.tokenSecret: there is no secret hub in team",
        ),
        ({"resources": {"nodes": 1, "gpusPerNode": 8, "memory": "2Ti"}}, "NodeTooSmall"),
    ],
)
def test_what_the_operator_would_refuse_ends_with_2(
    server: Server, render: Any, change: dict[str, Any], said: str
) -> None:
    code, objects, err = render(change)
    assert (code, objects) == (2, [])
    assert said in err


def test_claim_and_secret_that_are_there_are_found(server: Server, render: Any) -> None:
    server.objects["persistentvolumeclaims/mine"] = {
        "metadata": {"name": "mine"},
        "spec": {"accessModes": ["ReadWriteMany"]},
    }
    server.objects["secrets/hub"] = {"metadata": {"name": "hub"}, "data": {"HF_TOKEN": "aGY="}}
    code, _, err = render({"storage": {"size": None, "claimName": "mine"}, **WITH_TOKEN})
    assert code == 0, err


def test_secret_without_the_key_of_the_token_is_told_before_a_pod_waits_for_it(
    server: Server, render: Any
) -> None:
    server.objects["secrets/hub"] = {"metadata": {"name": "hub"}, "data": {"token": "aGY="}}
    code, objects, err = render(WITH_TOKEN)
    assert (code, objects) == (2, [])
    assert "spec.model.tokenSecret: secret hub in team has no key HF_TOKEN" in err


def test_gpus_that_others_hold_are_said(server: Server, render: Any) -> None:
    server.lists["pods"] = [BUSY]
    code, _, err = render()
    assert code == 0
    assert "the operator would wait: 0 of 1 nodes have 8 GPU(s)" in err


def test_room_that_others_hold_is_said_of_a_job_on_cpu_too(server: Server, render: Any) -> None:
    on_cpu = {"resources": {"nodes": 2, "gpusPerNode": 0, "cpu": "40"}}
    assert "would wait" not in render(on_cpu)[2]
    container = {"resources": {"requests": {"cpu": "50"}}}
    server.lists["pods"] = [{**BUSY, "spec": {"nodeName": "gpu-1", "containers": [container]}}]
    assert "the operator would wait: nodes have room for 1 of 2 pods of 40 CPUs" in render(on_cpu)[2]


def test_gang_that_the_scheduler_places_waits_for_nobodys_look_and_has_its_group(
    server: Server, render: Any
) -> None:
    server.lists["pods"] = [BUSY]
    server.lists["deployments"] = [operator(PHITUNE_GANG_SCHEDULING="true")]
    code, objects, err = render()
    assert (code, "the operator would wait" in err) == (0, False)
    assert [made["kind"] for made in objects][-2:] == ["PodGroup", "PyTorchJob"]


def test_job_does_not_wait_for_gpus_that_a_pool_adds(server: Server, render: Any) -> None:
    server.lists["pods"] = [BUSY]
    size = {"gpusPerNode": 8, "cpu": 96, "memory": "1000Gi", "maxNodes": 1}
    pool = {"name": "more", "product": "A100-80GB", "labels": {"pool": "more"}, **size}
    server.lists["deployments"] = [operator(PHITUNE_POOLS=json.dumps([pool]))]
    code, _, err = render()
    assert code == 0
    assert "pool more grows for it" in err
    assert "would wait" not in err


def test_what_may_not_be_read_is_said_and_taken_to_be_in_order(server: Server, render: Any) -> None:
    server.forbidden = {"pods", "deployments", "secrets"}
    code, _, err = render(WITH_TOKEN)
    assert code == 0
    assert "nodes are taken to be free" in err
    assert "images, pools and network profiles are not known" in err
    assert "not known whether secret hub is there" in err


def test_nodes_that_may_not_be_read_end_with_77(server: Server, render: Any) -> None:
    server.forbidden = {"nodes"}
    assert render()[0] == 77
    code, _, err = render({"resources": {"nodes": 1, "gpusPerNode": 0}})
    assert (code, "not known whether nodes are large enough" in err) == (0, True), "on CPU any will do"


def test_cluster_that_does_not_answer_ends_with_69(server: Server, render: Any, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(file.read_text().replace(str(server.server_port), "1"), encoding="utf-8")
    code, _, err = render()
    assert code == 69
    assert err.splitlines()[-1].startswith("check `kubectl cluster-info`")
