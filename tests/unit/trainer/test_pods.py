"""The launcher as Kubernetes sees it, with real processes: exit codes, termination messages, signals."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from phitune_trainer.run_layout import RunLayout, steps_in

LONG = {"maxSteps": 100_000, "warmupSteps": 0}
HELD_OUT = {"eval": "eval.jsonl"}


def child_of(pid: int) -> int | None:
    """The only child of a process, once there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def progress_at(port: int) -> dict[str, Any] | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/progress") as answer:
            progress: dict[str, Any] = json.load(answer)
            return progress
    except (URLError, ConnectionError):
        return None


@pytest.fixture
def start_two_pods(make_config: Any, start_pod: Any, free_port: Any, wait_until: Any) -> Any:
    """Start a gang of two pods with one rank each, and wait until both have told of a step."""

    def start(**variables: str) -> tuple[Any, Any]:
        config = make_config(training=LONG, world={"nodes": 2})
        gang = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
            "GLOO_SOCKET_IFNAME": "lo",
            **variables,
        }
        port = free_port()
        master = start_pod(config, **gang, PET_NODE_RANK="0", PHITUNE_PROGRESS_PORT=str(port))
        worker = start_pod(config, **gang, PET_NODE_RANK="1")
        # After the second step of rank 0, rank 1 has told its launcher of its first.
        wait_until(lambda: (progress_at(port) or {"step": 0})["step"] > 1)
        return master, worker

    return start


def assert_names_rank_1(master: Any) -> None:
    """The first pod has ended, and its message says which rank it lost and after which step."""
    code, message, output = master.wait()
    assert (code, message["reason"]) == (1, "RankLost")
    named = r"rank 0: after step \d+: rank 1 \(host .+\) gives no sign of life; its last step was \d+"
    assert re.fullmatch(named, message["message"])
    assert message["failure"]["rank"] == 0
    assert message["progress"]["step"] > 0
    assert "Traceback" not in output


@pytest.mark.slow
def test_when_a_rank_is_killed_its_pod_and_the_other_name_it_and_the_step(start_two_pods: Any) -> None:
    master, worker = start_two_pods()
    os.kill(child_of(worker.process.pid), signal.SIGKILL)
    code, message, _ = worker.wait()
    assert (code, message["exitCode"], message["reason"]) == (137, 137, "Killed")
    assert message["message"].startswith("rank 1 was killed by SIGKILL")
    assert message["nodeRank"] == 1
    assert message["ranks"][0]["steps"] > 0

    assert_names_rank_1(master)


@pytest.mark.slow
def test_when_a_rank_freezes_the_other_pod_names_it_when_the_time_is_up(start_two_pods: Any) -> None:
    master, worker = start_two_pods(PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="10", PHITUNE_GRACE_SECONDS="1")
    os.kill(child_of(worker.process.pid), signal.SIGSTOP)
    assert_names_rank_1(master)
    worker.process.send_signal(signal.SIGTERM)
    code, message, _ = worker.wait()
    assert (code, message["reason"]) == (137, "Killed")
    assert message["message"] == "rank 1 was killed: it had not saved within 1 s of the signal"


@pytest.mark.slow
def test_a_signal_saves_and_the_next_start_goes_on_to_the_end(
    workspace: Path, make_config: Any, start_pod: Any, free_port: Any, wait_until: Any
) -> None:
    long = make_config(training=LONG, world={"processesPerNode": 2}, data=HELD_OUT)
    port = free_port()
    pod = start_pod(long, PHITUNE_PROGRESS_PORT=str(port))
    wait_until(lambda: (progress_at(port) or {"step": 0})["step"] > 0)
    pod.process.send_signal(signal.SIGTERM)
    code, message, output = pod.wait()
    assert (code, message["reason"], message["failure"]) == (75, "Interrupted", None)
    layout = RunLayout(long.run_dir)
    [saved] = steps_in(layout.incarnation(1).checkpoints)
    assert message["lastCheckpoint"]["step"] == saved
    assert f"stopped after step {saved}" in output

    # The same run, but for its length: what a person would do who wants to see its end.
    layout.config.write_text(layout.config.read_text().replace("100000", str(saved + 2)))
    rest = make_config(training={**LONG, "maxSteps": saved + 2}, world={"processesPerNode": 2}, data=HELD_OUT)
    code, message, output = start_pod(rest, PHITUNE_ATTEMPT="2").wait()
    assert (code, message["reason"], message["attempt"], message["incarnation"]) == (0, "Completed", 2, 2)
    assert f"continues from step {saved}, saved by incarnation 1" in output
    assert [rank["steps"] for rank in message["ranks"]] == [2, 2]
    assert len({rank["parametersHash"] for rank in message["ranks"]}) == 1
    logs = sorted(path.name for path in (layout.incarnation(2).path / "logs").iterdir())
    assert logs == ["rank-0.log", "rank-1.log"]
    assert f"step {saved + 1}/{saved + 2}" in layout.incarnation(2).rank_log(0).read_text()


def test_a_signal_ends_a_pod_that_waits_for_its_peers(
    make_config: Any, start_pod: Any, free_port: Any, wait_until: Any
) -> None:
    port = free_port()
    pod = start_pod(
        make_config(world={"nodes": 2}),
        PET_NNODES="2",
        PET_NODE_RANK="0",
        PET_MASTER_ADDR="127.0.0.1",
        PET_MASTER_PORT=str(free_port()),
        PHITUNE_PROGRESS_PORT=str(port),
    )
    wait_until(lambda: progress_at(port))
    pod.process.send_signal(signal.SIGTERM)
    signalled_at = time.monotonic()
    code, message, _ = pod.wait()
    assert (code, message["reason"], message["failure"]) == (75, "Interrupted", None)
    assert time.monotonic() - signalled_at < 30


def test_a_malformed_line_of_data_is_the_users_error(
    workspace: Path, make_config: Any, start_pod: Any
) -> None:
    (workspace / "data/colors/train.jsonl").write_text('{"id": 1}\n')
    code, message, output = start_pod(make_config()).wait()
    assert (code, message["exitCode"], message["reason"]) == (2, 2, "UserError")
    assert "train.jsonl:1: " in message["message"]
    assert message["message"] in output
    assert "Traceback" not in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")
def test_a_volume_that_is_read_only_is_the_users_to_mend(
    workspace: Path, make_config: Any, start_pod: Any
) -> None:
    runs = workspace / "runs"
    runs.mkdir()
    mount = f"mount --bind {runs} {runs} && mount -o remount,bind,ro {runs}"
    command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    code, message, output = start_pod(make_config(), command).wait()
    assert (code, message["reason"]) == (2, "VolumeReadOnly")
    assert "the file system is read-only; mount the volume read-write" in message["message"]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("break_config", "words"),
    [
        pytest.param(
            lambda text: text.replace("maxSteps: 4", "maxSteps: -4"), "training.maxSteps", id="value"
        ),
        pytest.param(lambda text: text + "extra: 1\n", "extra", id="unknown field"),
        pytest.param(lambda text: text + "a: [", "line", id="not YAML"),
        pytest.param(
            lambda text: re.sub("(nodes|keep|maxLength|seed|numCrops): .*", r"\1: -1", text),
            "5 problem(s)",
            id="five values",
        ),
    ],
)
def test_a_config_broken_by_hand_is_the_users_error(
    break_config: Any, words: str, tmp_path: Path, make_config: Any, start_pod: Any
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(break_config(make_config().to_yaml()))
    code, message, output = start_pod(path).wait()
    assert (code, message["reason"], message["ranks"]) == (2, "UserError", [])
    assert words in message["message"]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PHITUNE_GRACE_SECONDS", "soon"),
        pytest.param("PHITUNE_COLLECTIVE_TIMEOUT_SECONDS", "1h", marks=pytest.mark.slow),
    ],
)
def test_a_variable_that_is_no_number_is_the_users_error(
    name: str, text: str, make_config: Any, start_pod: Any
) -> None:
    code, message, output = start_pod(make_config(), **{name: text}).wait()
    assert (code, message["reason"]) == (2, "UserError")
    assert f"{name}={text!r} in the environment: " in message["message"]
    assert "Traceback" not in output


def test_a_gang_that_does_not_fit_its_config_is_refused(make_config: Any, start_pod: Any) -> None:
    code, message, _ = start_pod(make_config(), PET_NNODES="2", PET_NPROC_PER_NODE="4").wait()
    assert code == 2
    assert "one of 2 with 4 processes each" in message["message"]
