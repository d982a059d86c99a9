"""Files to a volume and back: wherever a copy is cut off, the same command ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.volume import NEVER, agent_at, read, small_pieces, write
from phitune_cli.finetune import report_cmd
from phitune_cli.finetune.download import download, list_folder
from phitune_cli.finetune.problems import ConnectionLost, NoAnswer, WrongInput
from phitune_cli.finetune.transfer_line import go_on_when_cut_off, progress_text
from phitune_cli.finetune.upload import local_files, upload
from phitune_cli.finetune.volume_agent import PART, part_of

NAMES = [
    "train.jsonl",
    "images/a.png",
    "images/deep/c.png",
    "two  words.png",
    " images/ leading.png",
    "line\nbreak.png",
    'it\'s "quoted".png',
    "$(reboot) `x` \\ %s.png",
    "-rf",
    "收据/票据.png",
    f"long/{'x' * 250}.png",
    f"long/{'票' * 85}",
]
"""Of which the last two have the most bytes that file systems take, and one less."""
FILES = st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=40), min_size=1, max_size=5)
CUTS = st.lists(st.integers(0, 4000), max_size=4)
"""After how many bytes, there and back, the connection breaks: of the first try, the second, ..."""


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, CUTS)
@example(dict.fromkeys(NAMES, b"content"), dict.fromkeys(NAMES, b"cont"), [])
@example(dict.fromkeys(NAMES, b""), {}, [])
def test_an_upload_cut_off_anywhere_and_repeated_ends_with_the_same_bytes(
    files: dict[str, bytes], before: dict[str, bytes], cuts: list[int]
) -> None:
    with small_pieces() as folder:
        write(folder / "here", files)
        # What an earlier upload left of other files under these names, and unfinished beginnings of them.
        write(folder / "volume/data", {str(part_of(Path(name))): old for name, old in before.items()})
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
        assert not {str(part_of(Path(name))) for name in files} & arrived.keys()
        assert sum(counted) == sum(map(len, files.values()))
        assert sent.num_files == len(files)


@settings(max_examples=60, deadline=None)
@given(FILES, FILES, CUTS)
@example(dict.fromkeys(NAMES, b"content"), dict.fromkeys(NAMES, b"cont"), [])
@example(dict.fromkeys(NAMES, b""), {}, [])
def test_a_download_cut_off_anywhere_and_repeated_ends_with_the_same_bytes(
    files: dict[str, bytes], before: dict[str, bytes], cuts: list[int]
) -> None:
    with small_pieces() as folder:
        write(folder / "volume/runs/export", files)
        write(folder / "here", {str(part_of(Path(name))): old for name, old in before.items()})
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


def test_a_report_of_any_size_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_cmd, "PIECE", 1000)
    (tmp_path / "report.html").write_bytes(page := os.urandom(3500))
    job = {"status": {"artifacts": {"report": "report.html"}}}
    with agent_at(tmp_path) as agent:
        assert report_cmd.read_report(agent, job) == page


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
