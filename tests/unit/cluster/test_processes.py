"""A recorded process is never mistaken for another, and is started, kept or replaced as described."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localkube import processes
from localkube.processes import Daemon, Identity


def stat(command: str, *, status: str = "S", started: int = 4711) -> str:
    between = " ".join(["0"] * 18)
    return f"42 ({command}) {status} {between} {started} 0 0\n"


@pytest.mark.parametrize("command", ["sh", "a b", "(sd-pam)", "x) R 1 (y", "tricky ) Z"])
def test_a_process_name_does_not_confuse_the_reader(command):
    assert processes.parse_stat(stat(command)) == ("S", 4711)


def test_this_process_is_itself():
    mine = Identity.of(os.getpid())
    assert mine is not None
    assert mine.is_alive()
    assert 0 <= mine.seconds() < 86_400


def test_a_reused_pid_is_somebody_else():
    mine = Identity.of(os.getpid())
    assert mine is not None
    earlier = Identity(mine.pid, mine.started - 1, mine.boot)
    assert not earlier.is_alive()
    earlier.send(signal.SIGKILL)


def test_a_pid_of_another_boot_is_somebody_else():
    mine = Identity.of(os.getpid())
    assert mine is not None
    assert not Identity(mine.pid, mine.started, "another-boot").is_alive()


def test_a_dead_child_is_not_alive_even_before_it_is_reaped():
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Identity.of(child.pid) is None


def eventually(is_so: Callable[[], bool]) -> bool:
    """What another process does takes its time, more on a busy machine."""
    deadline = time.monotonic() + 20.0
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.002)
    return is_so()


@pytest.fixture
def folders(tmp_path: Path):
    """Where records and logs go; what was started is ended."""
    records, logs = tmp_path / "records", tmp_path / "logs"
    yield records, logs
    for record in processes.read_all(records):
        processes.stop(record.identity)


def sleeper(seconds: int = 60, **fields: object) -> Daemon:
    return Daemon("sleeper", ["sleep", str(seconds)], groups=(), **fields)


def test_a_daemon_is_started_then_left_alone(folders):
    assert processes.ensure(sleeper(), *folders) == "started"
    first = processes.read(folders[0], "sleeper")
    assert processes.ensure(sleeper(), *folders) == "running"
    assert processes.read(folders[0], "sleeper") == first


def test_the_recorded_pid_is_that_of_the_program_itself(folders):
    identity = processes.start(sleeper(), *folders)
    command = Path(f"/proc/{identity.pid}/cmdline")
    assert eventually(lambda: command.read_bytes() == b"sleep\x0060\x00")
    assert os.getsid(identity.pid) == identity.pid


def test_a_dead_daemon_is_started_again(folders):
    processes.ensure(sleeper(), *folders)
    before = processes.read(folders[0], "sleeper")
    processes.stop(before.identity)
    assert processes.ensure(sleeper(), *folders) == "restarted"
    assert processes.read(folders[0], "sleeper").identity != before.identity


def test_another_command_replaces_the_running_one(folders):
    processes.ensure(sleeper(60), *folders)
    before = processes.read(folders[0], "sleeper")
    assert processes.ensure(sleeper(61), *folders) == "restarted"
    assert not before.is_alive()


def test_a_changed_configuration_replaces_the_running_one(folders, tmp_path):
    config = tmp_path / "config"
    config.write_text("a")
    processes.ensure(sleeper(files=[config]), *folders)
    config.write_text("b")
    assert processes.ensure(sleeper(files=[config]), *folders) == "restarted"


def test_a_daemon_joins_its_groups_before_it_runs(folders, tmp_path):
    group = tmp_path / "cgroup.procs"
    identity = processes.start(Daemon("member", ["sleep", "60"], groups=[group]), *folders)
    assert eventually(lambda: group.exists() and group.read_text() == f"{identity.pid}\n")


def test_namespaces_are_entered_on_the_way(tmp_path):
    daemon = Daemon("inside", ["prog", "-x"], groups=(), network=Path("/net"), mounts=Path("/proc/1/ns/mnt"))
    words = daemon.command()
    assert words[words.index("nsenter") :] == [
        "nsenter",
        "--net=/net",
        "--mount=/proc/1/ns/mnt",
        "--",
        "prog",
        "-x",
    ]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"network": Path("/net")}, id="network"),
        pytest.param({"mounts": Path("/mnt")}, id="mounts"),
        pytest.param({"depends": "something"}, id="what it depends on"),
        pytest.param({"environment": {"A": "b"}}, id="environment"),
    ],
)
def test_the_fingerprint_changes_with_each_part(change):
    assert sleeper(**change).fingerprint() != sleeper().fingerprint()


def test_what_a_daemon_says_is_in_its_log(folders):
    processes.start(Daemon("talker", ["sh", "-c", "echo hello; exec sleep 60"], groups=()), *folders)
    log = folders[1] / "talker.log"
    assert eventually(lambda: log.read_text() != "")
    assert processes.last_lines(folders[1], "talker") == f"the end of {log}:\n  hello"


def test_an_absent_log_is_said():
    assert "does not exist" in processes.last_lines(Path("/nowhere"), "x")
