"""The pod that holds a volume open for `kubectl finetune`: where it goes, what it waits for, how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from harness.answering_cluster import api_server, kubeconfig
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.helper_pod import (
    helper_pod,
    holders_of,
    is_in_vain,
    manifest,
    nodes_of,
    why_it_waits,
)
from phitune_cli.finetune.main import main
from phitune_cli.finetune.problems import ConnectionLost, NoAnswer, Unreachable


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


GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def having(
    claim: str, node: str | None, phase: str = "Running", tolerations: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """A pod with the claim's volume."""
    volumes = [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "persistentVolumeClaim": {"claimName": claim}},
    ]
    spec: dict[str, Any] = {"volumes": volumes} | ({"nodeName": node} if node else {})
    if tolerations is not None:
        spec["tolerations"] = tolerations
    return {"metadata": {"name": "trains"}, "spec": spec, "status": {"phase": phase}}


def test_a_helper_pod_goes_where_the_volume_is_in_use() -> None:
    pods = [
        having("receipts", "b"),
        having("receipts", "a", "Pending"),
        having("receipts", "b"),
        having("receipts", "gone", "Succeeded"),
        having("receipts", None, "Pending"),
        having("other", "c"),
    ]
    beside = holders_of("receipts", pods)
    assert nodes_of(beside) == ["a", "b"]
    wishes = manifest("a", "receipts", "image:1", beside=beside)["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = wishes.values()
    assert [one["preference"]["matchFields"][0]["values"] for one in preferred] == [["a"], ["b"]]
    assert not {"affinity", "tolerations"} & manifest("a", "receipts", "image:1")["spec"].keys()


def test_it_may_go_there_though_the_node_is_kept_for_those_with_gpus() -> None:
    lost = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    beside = [
        having("receipts", "a", tolerations=[GPU_TAINT, lost]),
        having("receipts", "b", tolerations=[GPU_TAINT]),
        having("receipts", "c"),
    ]
    spec = manifest("a", "receipts", "image:1", beside=beside)["spec"]
    assert spec["tolerations"] == [GPU_TAINT, lost]


class Answering:
    """A cluster in which every helper pod runs at once."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = pods
        self.created: list[dict[str, Any]] = []
        self.deleted: list[object] = []

    def list(self, _: object, labels: str = "") -> list[dict[str, Any]]:
        return [] if labels else [*self.pods]

    def create(self, _: object, pod: dict[str, Any]) -> None:
        self.created.append(pod)

    def get(self, *_: object) -> dict[str, Any]:
        return {"status": {"phase": "Running"}}

    def delete(self, _: object, name: str, **__: object) -> None:
        self.deleted.append(name)


class Elsewhere(Answering):
    """A cluster in which the helper pod got another node than it asked for, and no volume."""

    def get(self, *_: object) -> dict[str, Any]:
        (pod,) = self.created
        return {
            "metadata": pod["metadata"],
            "spec": {**pod["spec"], "nodeName": "cpu-1"},
            "status": {"phase": "Pending"},
        }


@pytest.mark.parametrize(
    ("pods", "why"),
    [
        pytest.param(
            [having("receipts", "gpu-7")],
            "it is on node cpu-1, and the claim receipts is in use on gpu-7: if it is ReadWriteOnce",
            id="the volume is on another node",
        ),
        pytest.param(
            [having("receipts", "gpu-7"), having("receipts", "cpu-1")],
            "no reason given",
            id="the volume is here too",
        ),
        pytest.param([], "no reason given", id="nobody has the volume"),
    ],
)
def test_a_helper_pod_whose_volume_is_held_by_another_node_names_it(
    pods: list[dict[str, Any]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_cli.finetune.helper_pod.START_SECONDS", 0.0)
    cluster = Elsewhere(*pods)
    with (
        pytest.raises(Unreachable, match=f"has not started in 0 s: {why}"),
        helper_pod(cast(Cluster, cluster), "receipts", "image:1", say=lambda line: None),
    ):
        pass
    assert len(cluster.deleted) == 1


@pytest.mark.parametrize(
    "words",
    [
        'pods "a" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=4, limited: pods=4',
        'pods "a" is forbidden: violates PodSecurity "restricted:latest": seccompProfile',
        'pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
        "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
    ],
)
def test_a_helper_pod_that_the_cluster_refuses_is_not_told_as_a_missing_right(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").touch()
    answers = {
        "/persistentvolumeclaims/receipts": (200, {}),
        "POST /pods": (403, {"reason": "Forbidden", "message": words}),
        "GET /pods": (200, {"items": []}),
    }
    with api_server(404, {}, answers) as address:
        target = ["--image", "x:1", "--kubeconfig", kubeconfig(tmp_path, address)]
        assert main(["upload", str(tmp_path / "train.jsonl"), "--claim", "receipts", *target]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "rights" not in said


class Closed(Answering):
    """A cluster whose user closes the terminal as the helper pod is removed."""

    def delete(self, _: object, name: str, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        self.deleted.append(name)


class Gone(Answering):
    """A cluster that answers until its helper pod runs, and then no more."""

    def delete(self, *_: object, **__: object) -> None:
        raise NoAnswer("it does not answer")


def test_a_helper_pod_is_removed_though_the_terminal_is_closed_meanwhile() -> None:
    cluster = Closed()
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with (
            pytest.raises(ConnectionLost),
            helper_pod(cast(Cluster, cluster), "receipts", "image:1", say=lambda line: None) as name,
        ):
            raise ConnectionLost("cut off")
        assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)
    assert cluster.deleted == [name]


def test_a_helper_pod_that_cannot_be_removed_does_not_hide_what_went_wrong() -> None:
    said: list[str] = []
    cluster = cast(Cluster, Gone())
    with (
        pytest.raises(ConnectionLost, match="cut off"),
        helper_pod(cluster, "receipts", "image:1", say=said.append) as name,
    ):
        raise ConnectionLost("cut off")
    assert said[-1] == f"the helper pod {name} is not removed, but ends of itself: it does not answer"
