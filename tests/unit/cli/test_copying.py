"""Files to a volume and back: wherever a copy is cut off, the same command ends with the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phitune_cli.finetune import download as downloading
from phitune_cli.finetune import report_cmd, volume_agent
from phitune_cli.finetune import upload as uploading
from phitune_cli.finetune.agent import Agent
from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.download import download, list_folder
from phitune_cli.finetune.helper_pod import helper_pod
from phitune_cli.finetune.problems import ConnectionLost, NoAnswer, Problem, WrongInput
from phitune_cli.finetune.transfer_line import go_on_when_cut_off, progress_text
from phitune_cli.finetune.upload import local_files, upload
from phitune_cli.finetune.volume_agent import PART

NEVER = 10**9

FILES = st.dictionaries(
    st.sampled_from(["train.jsonl", "images/a.png", "images/b.png", "images/deep/c.png"]),
    st.binary(max_size=40),
    min_size=1,
)
CUTS = st.lists(st.integers(0, 2500), max_size=4)
"""After how many bytes, there and back, the connection breaks: of the first try, the second, ..."""


class Cut:
    """A channel to a real agent, which breaks after so many bytes."""

    def __init__(self, root: Path, limit: int) -> None:
        self._left = limit
        self._near, far = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(root, far))
        self._thread.start()

    def _serve(self, root: Path, far: socket.socket) -> None:
        with far, far.makefile("rb") as source, contextlib.suppress(OSError), far.makefile("wb") as sink:
            volume_agent.Agent(root, source, sink, lambda seconds: None).serve()

    def send(self, data: bytes) -> None:
        self._near.sendall(data[: self._left])
        self._use(len(data))

    def receive(self) -> bytes:
        data = self._near.recv(4096)
        self._use(len(data) or NEVER)
        return data

    def _use(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise ConnectionLost("cut off")

    def close(self) -> None:
        self._near.close()
        self._thread.join()


@contextlib.contextmanager
def agent_at(root: Path, limit: int = NEVER) -> Iterator[Agent]:
    channel = Cut(root, limit)
    try:
        yield Agent(channel)
    finally:
        channel.close()


@contextlib.contextmanager
def small_pieces() -> Iterator[Path]:
    """A folder for one example, in which files of some bytes are sent in many pieces."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (uploading, downloading):
            patch.setattr(module, "PIECE", 7)
        yield Path(folder)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, CUTS)
def test_an_upload_cut_off_anywhere_and_repeated_ends_with_the_same_bytes(
    files: dict[str, bytes], before: dict[str, bytes], cuts: list[int]
) -> None:
    with small_pieces() as folder:
        write(folder / "here", files)
        # What an earlier upload left of other files under these names, and unfinished beginnings of them.
        write(folder / "volume/data", {f"{name}{PART}": content for name, content in before.items()})
        sources = local_files(folder / "here")
        for cut in cuts:
            with agent_at(folder / "volume", cut) as agent, contextlib.suppress(ConnectionLost):
                upload(agent, sources, "data", lambda num_bytes: None)
            complete = {name: text for name, text in read(folder / "volume/data").items() if PART not in name}
            assert complete.items() <= files.items()
        counted: list[int] = []
        with agent_at(folder / "volume") as agent:
            sent = upload(agent, sources, "data", counted.append)
        arrived = read(folder / "volume/data")
        assert {name: arrived[name] for name in files} == files
        assert not [name for name in arrived if name.removesuffix(PART) in files and name.endswith(PART)]
        assert sum(counted) == sum(map(len, files.values()))
        assert sent.num_files == len(files)


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, CUTS)
def test_a_download_cut_off_anywhere_and_repeated_ends_with_the_same_bytes(
    files: dict[str, bytes], before: dict[str, bytes], cuts: list[int]
) -> None:
    with small_pieces() as folder:
        write(folder / "volume/runs/export", files)
        write(folder / "here", {f"{name}{PART}": content for name, content in before.items()})
        out = folder / "here"
        for cut in [*cuts, NEVER]:
            counted: list[int] = []
            with agent_at(folder / "volume", cut) as agent, contextlib.suppress(ConnectionLost):
                found = list_folder(agent, "runs/export")
                assert found is not None
                fetched = download(agent, "runs/export", found, out, counted.append)
            complete = {name: text for name, text in read(out).items() if PART not in name}
            assert complete.items() <= files.items()
        assert {name: content for name, content in read(out).items() if name in files} == files
        assert sum(counted) == sum(map(len, files.values()))
        assert fetched.num_files == len(files)


def test_what_is_there_is_not_sent_again_and_what_has_changed_is(tmp_path: Path) -> None:
    write(tmp_path / "here", {"train.jsonl": b"one", "images/a.png": b"two"})
    with agent_at(tmp_path / "volume") as agent:
        upload(agent, local_files(tmp_path / "here"), "data", lambda num_bytes: None)
        write(tmp_path / "here", {"images/a.png": b"2wo"})
        sent = upload(agent, local_files(tmp_path / "here"), "data", lambda num_bytes: None)
    assert (sent.num_files, sent.num_kept, sent.num_bytes) == (2, 1, 3)
    assert read(tmp_path / "volume/data") == {"train.jsonl": b"one", "images/a.png": b"2wo"}


def test_a_file_that_goes_on_where_it_was_cut_off_does_not_come_twice(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    write(tmp_path / "volume/export", {"model.safetensors": content})
    write(tmp_path / "here", {f"model.safetensors{PART}": content[:4_000_000]})
    with agent_at(tmp_path / "volume") as agent:
        found = list_folder(agent, "export")
        assert found is not None
        fetched = download(agent, "export", found, tmp_path / "here", lambda num_bytes: None)
    assert fetched.num_bytes == len(content) - 4_000_000
    assert (tmp_path / "here/model.safetensors").read_bytes() == content


def test_a_download_replaces_what_is_here_only_when_it_is_told_to(tmp_path: Path) -> None:
    write(tmp_path / "volume/export", {"README.md": b"its", "a.safetensors": b"weights"})
    write(tmp_path / "here", {"README.md": b"ours"})
    with agent_at(tmp_path / "volume") as agent:
        found = list_folder(agent, "export")
        assert found is not None
        with pytest.raises(WrongInput, match=r"README\.md: another file is there; .*--force"):
            download(agent, "export", found, tmp_path / "here", lambda num_bytes: None)
        assert read(tmp_path / "here") == {"README.md": b"ours"}
        download(agent, "export", found, tmp_path / "here", lambda num_bytes: None, force=True)
    assert read(tmp_path / "here") == read(tmp_path / "volume/export")


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


def test_a_report_of_any_size_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_cmd, "PIECE", 1000)
    (tmp_path / "report.html").write_bytes(page := os.urandom(3500))
    job = {"status": {"artifacts": {"report": "report.html"}}}
    with agent_at(tmp_path) as agent:
        assert report_cmd.read_report(agent, job) == page


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname"])
def test_the_agent_leaves_what_is_not_on_the_volume_alone(path: str, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "outside").write_text("mine")
    with (
        agent_at(tmp_path / "volume") as agent,
        pytest.raises(WrongInput, match="not below the volume's root"),
    ):
        agent.ask("read", path, offset=0, length=10)


def test_a_volume_that_is_full_is_said_with_the_file(tmp_path: Path) -> None:
    write(tmp_path / "here", {"a": b"content"})
    write(tmp_path / "volume", {"data": b"a file where the folder should be"})
    with agent_at(tmp_path / "volume") as agent, pytest.raises(WrongInput, match="on the volume, data/a: "):
        upload(agent, local_files(tmp_path / "here"), "data", lambda num_bytes: None)


def test_what_no_volume_should_have_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="no such file or folder"):
        local_files(tmp_path / "none")
    with pytest.raises(WrongInput, match="has no files"):
        local_files(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(WrongInput, match="a link to a folder"):
        local_files(tmp_path)


def test_a_connection_that_comes_back_is_gone_on_with_and_one_that_does_not_ends() -> None:
    pauses: list[float] = []
    tries: list[int] = []

    def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionLost("cut off")
        return "done"

    assert go_on_when_cut_off(work, pause=pauses.append) == "done"
    assert pauses == [2, 4]

    def in_vain() -> str:
        raise ConnectionLost("cut off")

    with pytest.raises(ConnectionLost):
        go_on_when_cut_off(in_vain, pause=pauses.append)


def test_a_cluster_that_is_gone_for_a_while_is_waited_for_only_once_it_was_there() -> None:
    ends = iter([ConnectionLost("cut off"), NoAnswer("it starts again"), None])

    def work() -> str:
        if (end := next(ends)) is not None:
            raise end
        return "done"

    pauses: list[float] = []
    assert go_on_when_cut_off(work, pause=pauses.append) == "done"
    assert pauses == [2, 4]

    ends = iter([NoAnswer("nothing is there")])
    with pytest.raises(NoAnswer):
        go_on_when_cut_off(work, pause=pauses.append)


class Answering:
    """A cluster in which every helper pod runs at once."""

    def __init__(self) -> None:
        self.deleted: list[object] = []

    def list(self, *_: object) -> list[object]:
        return []

    def create(self, *_: object) -> None:
        """Have it."""

    def get(self, *_: object) -> dict[str, object]:
        return {"status": {"phase": "Running"}}

    def delete(self, _: object, name: str, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)  # the terminal is closed
        self.deleted.append(name)


class Gone(Answering):
    """A cluster that answers until its helper pod runs, and then no more."""

    def delete(self, *_: object, **__: object) -> None:
        raise NoAnswer("it does not answer")


def test_a_helper_pod_is_removed_though_the_terminal_is_closed_meanwhile() -> None:
    cluster = Answering()
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


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        (0, 5, "sent 0 B of 2.0 GB (0%)"),
        (500_000_000, 10, "sent 500.0 MB of 2.0 GB (25%), 30s left"),
        (2_000_000_000, 40, "sent 2.0 GB of 2.0 GB (100%)"),
    ],
)
def test_progress_says_how_far_it_is_and_how_long_it_takes(done: int, seconds: float, text: str) -> None:
    assert progress_text("sent", done, 2_000_000_000, seconds) == text
