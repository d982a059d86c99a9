"""Copies that do not come about: files, disks, volumes and pods that are not as they should be."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any
from unittest.mock import Mock

import pytest

from harness.volume import NEVER, Cut, agent_at, read, small_pieces, write
from phitune_cli.finetune import report_cmd, volume_agent
from phitune_cli.finetune.agent import Agent
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.download import download, list_folder
from phitune_cli.finetune.main import main
from phitune_cli.finetune.problems import Problem, WrongInput, problem_of_file
from phitune_cli.finetune.upload import LocalFile, local_files, upload
from phitune_cli.finetune.volume_agent import PART


@pytest.mark.parametrize("name", ["../.bashrc", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_volume_that_names_a_place_outside_of_the_folder_writes_nothing(name: str) -> None:
    class Hostile:
        def send(self, data: bytes) -> None:
            """It answers whatever is asked."""

        def receive(self) -> bytes:
            text = json.dumps([[name, 3]]).encode()
            return json.dumps({"size": len(text)}).encode() + b"\n" + text

    with pytest.raises(Problem, match="nothing is written there"):
        list_folder(Agent(Hostile()), "export")


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname"])
def test_the_agent_leaves_what_is_not_on_the_volume_alone(path: str, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "outside").write_text("mine")
    with (
        agent_at(tmp_path / "volume") as agent,
        pytest.raises(WrongInput, match="not below the volume's root"),
    ):
        agent.ask("read", path, offset=0, length=10)


def test_what_no_volume_should_have_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="no such file or folder"):
        local_files(tmp_path / "none")
    with pytest.raises(WrongInput, match="has no files"):
        local_files(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(WrongInput, match="a link to a folder"):
        local_files(tmp_path)
    (tmp_path / f"a{PART}").touch()
    with pytest.raises(WrongInput, match="mark files that are not complete; rename it"):
        local_files(tmp_path / f"a{PART}")


@pytest.mark.parametrize("size", [0, 6, 8])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_whose_size_changes_meanwhile_is_not_said_to_be_there(
    size: int, is_there: bool, tmp_path: Path
) -> None:
    write(tmp_path / "here", {"a": b"content"})
    files = local_files(tmp_path / "here")
    if is_there:
        write(tmp_path / "volume/data", {"a": b"content"})
    write(tmp_path / "here", {"a": b"contents"[:size]})
    with (
        agent_at(tmp_path / "volume") as agent,
        pytest.raises(WrongInput, match="/here/a: its size changed while it was read"),
    ):
        upload(agent, files, "data", lambda num_bytes: None)


class Failing(io.FileIO):
    """A file on a disk that has no room, or fails."""

    number = errno.ENOSPC

    def write(self, _: object) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def read(self, _: int | None = -1) -> bytes:
        raise OSError(self.number, os.strerror(self.number))


class Broken(Failing):
    number = errno.EIO


FULL = "No space left on device; make room there, or choose another disk"
FAILS = "Input/output error; the disk or the network volume fails"


@pytest.mark.parametrize(("disk", "code", "words"), [(Failing, 2, FULL), (Broken, 1, FAILS)])
def test_a_volume_that_is_full_or_fails_is_said_with_the_file(
    disk: type[Failing], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here", {"a": b"content"})
    with agent_at(tmp_path / "volume") as agent:
        monkeypatch.setattr("os.fdopen", disk)
        with pytest.raises(Problem, match=f"^on the volume, data/a: {words}") as raised:
            upload(agent, local_files(tmp_path / "here"), "data", lambda num_bytes: None)
    assert raised.value.exit_code == code


@pytest.mark.parametrize(("disk", "code", "words"), [(Failing, 2, FULL), (Broken, 1, FAILS)])
def test_so_is_a_disk_of_this_machine(disk: type[Failing], code: int, words: str, tmp_path: Path) -> None:
    class OnIt(PosixPath):
        def open(self, mode: str = "r", *_: object, **__: object) -> Any:
            return disk(self, mode)

    (tmp_path / "a").write_bytes(b"content")
    write(tmp_path / "volume/export", {"a": b"content"})
    with agent_at(tmp_path / "volume") as agent:
        for copy in (
            lambda: upload(agent, [LocalFile(OnIt(tmp_path / "a"), "a", 7)], "data", lambda num_bytes: None),
            lambda: fetch(agent, OnIt(tmp_path / "here")),
        ):
            with pytest.raises(OSError, match=os.strerror(disk.number)) as raised:
                copy()
            problem = problem_of_file(raised.value)
            assert problem.exit_code == code
            assert re.match(rf"{tmp_path}/(a|here/a{PART}): {words}", str(problem))


def fetch(agent: Agent, out: Path) -> None:
    found = list_folder(agent, "export")
    assert found is not None
    download(agent, "export", found, out, lambda num_bytes: None)


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        pytest.param("/dev/full", 2, f"/dev/full: {FULL}", id="full"),
        pytest.param("/proc/self/mem", 1, f"/proc/self/mem: {FAILS}", id="fails"),
        pytest.param("none/a.html", 2, "none/a.html: No such file or directory", id="no such folder"),
    ],
)
def test_a_report_that_finds_no_place_says_so(
    place: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_cmd, "connect", lambda _: Mock(Cluster))
    monkeypatch.setattr(report_cmd, "beside_volume_of", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(report_cmd, "read_report", lambda *_: b"page")
    assert main(["report", "receipts", "--to", place]) == code
    assert capsys.readouterr().err.startswith(f"kubectl finetune: {words}")


class Slow(io.FileIO):
    """A file on a disk that takes its time, and all of which is read piece by piece."""

    tick: Callable[[], None]

    def read(self, size: int | None = -1) -> bytes:
        self.tick()
        return super().read(size)


@pytest.mark.parametrize("copy", ["upload", "download"])
def test_a_connection_is_kept_alive_while_this_machine_reads_its_own_files(
    copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    ends: list[int] = []
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Slowly(PosixPath):
        def open(self, mode: str = "r", *_: object, **__: object) -> Any:
            file = Slow(self, mode)
            file.tick = lambda: now.__setitem__(0, now[0] + 2)
            return file

    with small_pieces() as folder:
        content = bytes(range(70))
        write(folder, {"here/a": content, f"volume/data/a{PART}": content[:63], "volume/export/a": content})
        channel = Cut(folder / "volume", NEVER, ends.append)
        agent = Agent(channel)
        if copy == "upload":
            upload(agent, [LocalFile(Slowly(folder / "here/a"), "a", 70)], "data", lambda num_bytes: None)
        else:
            fetch(agent, Slowly(folder / "here"))
        channel.close()
        assert read(folder / ("volume/data" if copy == "upload" else "here")) == {"a": content}
    assert channel.sent.count(b"still") >= 2
    assert ends.count(volume_agent.IDLE_SECONDS) == channel.sent.count(b"\n"), "each puts its end off"
