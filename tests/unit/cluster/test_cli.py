"""The command line's own decisions, on an empty machine."""

import json
from pathlib import Path

import pytest

from localkube import cli, down
from localkube.console import ClusterError, Console, StoppedError
from localkube.paths import Paths
from localkube.plan import Cluster, node_names, parse_subnet, tag_of
from localkube.status import Status

COMMANDS = ["build", "up", "down", "status", "env", "load", "node", "cut", "heal", "gpu"]


@pytest.mark.parametrize(
    ("words", "ours", "theirs"),
    [
        (["kubectl", "-n", "x", "get", "pods"], ["kubectl"], ["-n", "x", "get", "pods"]),
        (["kubectl", "--name", "two", "get", "-h"], ["kubectl", "--name", "two"], ["get", "-h"]),
        (["kubectl", "--state=/x", "--", "--name", "y"], ["kubectl", "--state=/x"], ["--name", "y"]),
        (["helm", "list"], ["helm"], ["list"]),
        (["kubectl"], ["kubectl"], []),
        (["kubectl", "--name"], ["kubectl", "--name"], []),
        (["node", "node-1", "exec", "--", "ls"], ["node", "node-1", "exec", "--", "ls"], []),
        ([], [], []),
    ],
)
def test_the_words_of_another_program_are_not_read(words, ours, theirs):
    assert cli.split(words) == (ours, theirs)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n    {command} " in said for command in [*COMMANDS, *cli.PASSED_ON])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert "usage: python3 hack/cluster" in capsys.readouterr().out


def test_a_cluster_that_is_not_there_is_said_with_its_own_code(tmp_path, capsys):
    assert cli.main(["env", "--state", str(tmp_path / "none")]) == 3
    assert "bring one up with `up`" in capsys.readouterr().err


def test_the_shell_is_told_where_to_look(tmp_path, capsys):
    Paths(tmp_path).save(cluster(tmp_path))
    assert cli.main(["env", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"export KUBECONFIG={tmp_path}/kubeconfig",
        f'export PATH="{tmp_path}/bin:$PATH"',
    ]


def cluster(state: Path, nodes: int = 2) -> Cluster:
    return Cluster("default", tag_of(state), parse_subnet("10.200.0.0/16"), node_names(nodes))


@pytest.mark.parametrize("folder", ["/run/x", "/var/lib/x/y", "/var/log", "/"])
def test_a_state_folder_that_nodes_cannot_see_is_refused(folder):
    with pytest.raises(ClusterError, match="--state"):
        Paths.of(Path(folder), "default")


def test_a_named_cluster_has_a_folder_of_its_own():
    assert Paths.of(None, "two").state == Path("/var/tmp/phitune-cluster/two")


def test_a_folder_of_somebody_elses_files_is_never_removed(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ClusterError, match="not a cluster's; they stay"):
        down._remove_state(Paths(tmp_path), is_ours=False)
    assert (tmp_path / "precious").exists()


def test_a_clusters_folder_is_removed_with_all_in_it(tmp_path):
    paths = Paths(tmp_path / "state")
    paths.save(cluster(paths.state))
    (paths.state / "bin").mkdir()
    (paths.state / "bin" / "kubectl").symlink_to(tmp_path)
    assert down._remove_state(paths, is_ours=False)
    assert not paths.state.exists()
    assert tmp_path.exists()
    assert not down._remove_state(paths, is_ours=False)


def status(
    tmp_path: Path, *, alive: bool = True, ready: bool = True, cut: bool = False, available: bool = True
) -> Status:
    return Status(
        cluster(tmp_path),
        "/kubeconfig",
        [{"name": "etcd", "alive": alive, "pid": 42, "seconds": 3.2 if alive else None}],
        [
            {
                "name": "node-1",
                "address": "10.200.255.11",
                "ready": ready,
                "cut": cut,
                "gpus": 8,
                "gpuProduct": "H200",
            }
        ],
        [{"namespace": "kube-system", "name": "coredns", "available": available}],
    )


@pytest.mark.parametrize(
    ("trouble", "word"),
    [
        pytest.param({"alive": False}, "DEAD", id="a process"),
        pytest.param({"ready": False}, "NOT Ready", id="a node"),
        pytest.param({"cut": True}, "cable cut", id="a cable"),
        pytest.param({"available": False}, "NOT available", id="a Deployment"),
    ],
)
def test_one_part_in_trouble_makes_the_cluster_unhealthy(tmp_path, trouble, word):
    seen = status(tmp_path, **trouble)
    assert not seen.is_healthy()
    assert "NOT healthy" in seen.lines()[0]
    assert any(word in line for line in seen.lines())


def test_a_healthy_cluster_says_so_to_people_and_programs(tmp_path):
    seen = status(tmp_path)
    assert seen.lines()[0] == "default: healthy, https://10.200.255.1:6443"
    assert any("8 x H200" in line for line in seen.lines())
    assert json.loads(json.dumps(seen.to_json()))["healthy"] is True


def test_waiting_ends_with_what_was_found_out():
    with pytest.raises(ClusterError, match="the thing: not within 0 seconds\nits log"):
        Console().wait_for("the thing", lambda: False, seconds=0.0, explain=lambda: "its log", every=0.001)


def test_a_stopped_console_ends_every_step_and_wait():
    console = Console()
    console.stop()
    with pytest.raises(StoppedError):
        console.step("more")
    with pytest.raises(StoppedError):
        console.wait_for("more", lambda: False, seconds=60.0, explain=str)
