"""Where the demo runs, and what it tells people to type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journey import cli
from journey.console import Console, DemoError
from journey.images import Image, Images
from journey.places import DEFAULT_STATE, LocalCluster, OwnCluster

IMAGES = Images(Image("r:5000/phitune/operator:1", ""), Image("r:5000/phitune/trainer:1", ""))


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path / "log", 5)
    yield made
    made.close()


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put shell scripts in the place of a user's programs."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_registry_without_a_cluster_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--registry", "r", "--kubeconfig", ""]) == 2
    assert "REGISTRY without KUBECONFIG" in capsys.readouterr().err


def test_kubeconfig_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--registry", "r", "--kubeconfig", "/nowhere/config"]) == 2
    assert "KUBECONFIG: there is no file /nowhere/config" in capsys.readouterr().err


def test_commands_to_type_name_the_cluster_unless_it_is_the_usual_one() -> None:
    usual, other = LocalCluster(DEFAULT_STATE), LocalCluster(Path("/x/other"))
    own = OwnCluster("/home/me/config", "r")
    assert usual.how_to_remove() == "make cluster-down"
    assert other.how_to_remove() == "python3 hack/cluster down --state /x/other"
    assert usual.try_next("get ftj") == "python3 hack/cluster kubectl get ftj"
    assert other.try_next("get ftj") == "python3 hack/cluster kubectl --state /x/other get ftj"
    assert own.try_next("get ftj") == "kubectl --kubeconfig /home/me/config get ftj"
    assert "--kubeconfig /home/me/config uninstall" in own.how_to_remove()


def test_demos_at_the_same_time_write_logs_of_their_own() -> None:
    def log(*words: str) -> str:
        return cli.log_file(cli.parser().parse_args(words)).name

    assert log() == "demo.log"
    assert log("--state", "/x/other") == "demo-other.log"


def test_cluster_without_default_storage_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    classes = '{"items": [{"metadata": {"name": "nfs"}}, {"metadata": {"name": "disk"}}]}'
    programs(tmp_path, monkeypatch, kubectl=f"echo '{classes}'", helm="exit 1")
    with pytest.raises(DemoError, match=r"no default storage class.*ReadWriteMany.*there are nfs, disk"):
        OwnCluster("/config", "r").build(console)


def test_training_operator_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    script = 'case "$*" in *"get crd"*) echo "{}" ;; *) exit 1 ;; esac'
    programs(tmp_path, monkeypatch, kubectl=script.replace('"{}"', '\'{"kind": "x"}\''))
    OwnCluster("/config", "r").start(console, IMAGES)
    assert "is left as it is" in capsys.readouterr().out


def test_training_operator_that_cannot_be_fetched_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    script = 'case "$*" in *"get crd"*) ;; *) echo "Could not resolve host: github.com" >&2; exit 1 ;; esac'
    programs(tmp_path, monkeypatch, kubectl=script)
    with pytest.raises(DemoError, match=r"no PyTorchJob.*training-operator 1\.9.*Install it in your own way"):
        OwnCluster("/config", "r").start(console, IMAGES)
    assert "Could not resolve host: github.com" in capsys.readouterr().out
