"""Files of the hub come to the volume whole, once, and go on where they were cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.fetching import MODEL, WEIGHTS, Fetching, content, repository
from harness.hub_server import COMMIT, TOKEN, FakeHub, Fault
from phitune_trainer import hub as hub_module
from phitune_trainer.errors import UserError
from phitune_trainer.folders import is_filled
from phitune_trainer.hub import HubUnavailable
from phitune_trainer.hub_files import MODEL_FILES
from phitune_trainer.lease import LeaseLost, sole

UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "modeling_other.py": b"import os",
    "training_args.bin": b"pickle",
    "../outside.safetensors": b"x",
    "onnx/model.safetensors": b"x",
    "README.md": b"words",
}


def left_beside(fetching: Fetching) -> list[str]:
    return [path.name for path in fetching.into.parent.iterdir() if path != fetching.into]


def test_weights_configuration_and_tokenizer_come_and_no_pickle_and_no_foreign_code(
    server: FakeHub, fetching: Fetching, bare_environment: Path
) -> None:
    server.model(files={**MODEL, **UNWANTED})
    fetching.patterns = MODEL_FILES
    fetching()
    assert content(fetching.into) == MODEL
    assert left_beside(fetching) == []
    record = json.loads((fetching.into / ".hub-model-team--model.json").read_text())
    assert (record["revision"], record["commit"]) == ("main", COMMIT)
    assert not bare_environment.exists(), "nothing is kept outside the volume"
    assert any("commit aaaaaaaaaaaa" in line for line in fetching.said)


def test_what_is_there_is_not_asked_for_again_though_the_branch_has_moved(
    server: FakeHub, fetching: Fetching
) -> None:
    repo = server.model(files=dict(MODEL))
    fetching()
    server.requests.clear()
    repo.commit, repo.files["config.json"] = "b" * 40, b"newer"
    fetching()
    assert server.requests == []
    assert content(fetching.into) == MODEL


def test_a_file_that_was_removed_comes_again_from_the_same_commit(
    server: FakeHub, fetching: Fetching
) -> None:
    server.model(files=MODEL)
    fetching()
    server.requests.clear()
    (fetching.into / "config.json").unlink()
    fetching()
    assert content(fetching.into) == MODEL
    assert server.requests[0].path.endswith(f"/revision/{COMMIT}")
    assert len([request for request in server.requests if "/resolve/" in request.path]) == 1


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(server: FakeHub, fetching: Fetching) -> None:
    server.model(files=MODEL)
    name = "model-00001-of-00002.safetensors"
    server.faults = [Fault(f"cdn/models/team/model/{name}", times=2, cut_after=1_500_000)]
    fetching()
    ranges = [request.range for request in server.fetched(name)]
    assert ranges == [None, "bytes=1500000-", "bytes=3000000-"]
    assert content(fetching.into) == MODEL
    assert fetching.pauses == [1.0, 1.0], "bytes came in between"


def test_a_server_without_ranges_sends_the_file_from_its_beginning(
    server: FakeHub, fetching: Fetching
) -> None:
    server.model(files=MODEL)
    name = "cdn/models/team/model/model-00001-of-00002.safetensors"
    server.faults = [Fault(name, cut_after=2_000_000), Fault(name, ignores_range=True)]
    fetching()
    assert content(fetching.into) == MODEL


def test_a_later_try_goes_on_where_a_killed_one_was(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    name = "model-00002-of-00002.safetensors"
    server.faults = [Fault(f"cdn/models/team/model/{name}", times=50, cut_after=0)]
    server.faults.insert(0, Fault(f"cdn/models/team/model/{name}", cut_after=1_000_000))
    with pytest.raises(HubUnavailable):
        fetching()
    assert not fetching.into.exists(), "it appears only when it is whole"
    server.faults.clear()
    server.requests.clear()
    fetching()
    assert [request.range for request in server.fetched(name)] == ["bytes=1000000-"]
    assert server.fetched("model-00001-of-00002.safetensors") == [], "it was whole"
    assert content(fetching.into) == MODEL


def test_a_try_ended_by_sigkill_is_taken_up_when_its_lease_stands_still(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    name, hold = "model-00001-of-00002.safetensors", threading.Event()
    server.faults = [Fault(f"cdn/models/team/model/{name}", cut_after=1_000_000, hold=hold)]
    script = "import sys, pathlib, harness.fetching as f; f.Fetching(pathlib.Path(sys.argv[1]))()"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script, str(fetching.into)], env=env)
    partial = f".main.model-team--model.fetching/files/{name}.partial"
    await_size(fetching.into.parent / partial, 1_000_000)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    hold.set()
    assert not fetching.into.exists()
    monkeypatch.setattr("phitune_trainer.lease.LOST_SECONDS", 0.2)
    fetching()
    assert [request.range for request in server.fetched(name)] == [None, "bytes=1000000-"]
    assert content(fetching.into) == MODEL
    assert left_beside(fetching) == []


def test_what_changed_upstream_between_two_tries_is_fetched_anew(server: FakeHub, fetching: Fetching) -> None:
    repo = server.model(files=dict(MODEL))
    name = "model-00002-of-00002.safetensors"
    server.faults = [Fault(name, times=1, status=404, headers={"X-Error-Code": "EntryNotFound"})]
    with pytest.raises(UserError, match="listed but not there"):
        fetching()
    repo.files["model-00001-of-00002.safetensors"] = WEIGHTS[5:]
    fetching()
    assert content(fetching.into) == repo.files


def test_without_checksums_nothing_of_another_commit_is_taken_over_and_that_is_said(
    server: FakeHub, fetching: Fetching
) -> None:
    repo = server.model(files=dict(MODEL), tells_checksums=False)
    name = "model-00001-of-00002.safetensors"
    gone = {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}
    server.faults = [
        Fault(f"cdn/models/team/model/{name}", cut_after=1_000_000),
        Fault(f"cdn/models/team/model/{name}", **gone),
    ]
    with pytest.raises(UserError, match="listed but not there"):
        fetching()
    repo.files |= {"config.json": b'{"b": 2}', name: WEIGHTS[::-1]}
    repo.commit = "b" * 40
    server.faults = [
        Fault(f"cdn/models/team/model/{name}", cut_after=1_000_000),
        Fault(f"cdn/models/team/model/{name}", **gone),
    ]
    with pytest.raises(UserError, match="listed but not there"):
        fetching()
    server.requests.clear()
    fetching()
    assert content(fetching.into) == repo.files
    assert server.fetched(name)[0].range == "bytes=1000000-", "of the same commit it goes on"
    assert server.fetched("config.json") == []
    assert any("tells no checksums of 5 of the files; only their sizes" in line for line in fetching.said)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_file_that_was_hurt_on_its_way_is_fetched_again_and_then_refused(
    server: FakeHub, fetching: Fetching, name: str
) -> None:
    server.model(files=MODEL)
    path = f"cdn/models/team/model/{name}" if "safetensors" in name else name
    server.faults = [Fault(path, corrupts=True)]
    fetching()
    assert content(fetching.into) == MODEL
    other = Fetching(fetching.into.with_name("other"))
    server.faults = [Fault(path, times=2, corrupts=True)]
    with pytest.raises(UserError, match=f"{name} of team/model came 2 times with another content.*checksum"):
        other()
    assert not other.into.exists()


def test_two_jobs_that_fetch_at_once_download_once(server: FakeHub, fetching: Fetching) -> None:
    server.model(files=MODEL)
    server.gate = threading.Event()
    two = [fetching, Fetching(fetching.into)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(one) for one in two]
        while not server.fetched("model-00001-of-00002.safetensors"):
            time.sleep(0.01)
        server.gate.set()
        for one in running:
            one.result(timeout=30)
    assert content(fetching.into) == MODEL
    for name in MODEL:
        assert len(server.fetched(name)) == 1
    assert left_beside(fetching) == []


def test_a_folder_filled_by_hand_is_left_alone(server: FakeHub, fetching: Fetching) -> None:
    fetching.into.mkdir(parents=True)
    (fetching.into / "config.json").write_text("mine")
    fetching()
    assert (server.requests, content(fetching.into)) == ([], {"config.json": b"mine"})
    assert "used as it is" in fetching.said[0]


def test_two_repositories_fill_one_folder_and_each_only_once(server: FakeHub, tmp_path: Path) -> None:
    server.dataset("a/full", files={"docvqa/x.parquet": b"x" * 9, "nlvr2/y.parquet": b"y"})
    server.dataset("b/mini", files={"data/test-0.parquet": b"t", "data/train-0.parquet": b"u"})
    into = tmp_path / "data" / "docvqa" / "main"
    for name, pattern in [("a/full", "docvqa/*.parquet"), ("b/mini", "data/test-*.parquet")] * 2:
        Fetching(into, (pattern,))(repository(name, kind="dataset"))
    assert content(into) == {"docvqa/x.parquet": b"x" * 9, "data/test-0.parquet": b"t"}
    assert len(server.fetched("x.parquet")) == 1
    both = Fetching(into, ("data/test-*.parquet", "data/train-*.parquet"))
    both(repository("b/mini", kind="dataset"))
    assert sorted(content(into)) == ["data/test-0.parquet", "data/train-0.parquet", "docvqa/x.parquet"]
    assert len(server.fetched("test-0.parquet")) == 1


def test_two_repositories_that_come_to_one_folder_at_once_both_stay(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.dataset("a/full", files={"x.parquet": b"x"})
    server.dataset("b/mini", files={"y.parquet": b"y"})
    one, other = (Fetching(tmp_path / "data", (pattern,)) for pattern in ("x.parquet", "y.parquet"))

    def and_then_the_other_comes(folder: Path) -> bool:
        found = is_filled(folder)
        if server.fetched("x.parquet"):
            monkeypatch.setattr("phitune_trainer.hub.is_filled", is_filled)
            other(repository("b/mini", kind="dataset"))
        return found

    monkeypatch.setattr("phitune_trainer.hub.is_filled", and_then_the_other_comes)
    one(repository("a/full", kind="dataset"))
    assert content(tmp_path / "data") == {"x.parquet": b"x", "y.parquet": b"y"}
    assert left_beside(one) == []


def test_a_mirror_that_tells_no_sizes_is_asked_for_each_file(server: FakeHub, fetching: Fetching) -> None:
    server.model(files=MODEL, tells_sizes=False)
    fetching()
    assert content(fetching.into) == MODEL
    assert sum(request.method == "HEAD" for request in server.requests) == len(MODEL)


def test_a_volume_without_room_is_refused_before_anything_is_fetched(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    monkeypatch.setattr(hub_module, "SPARE_BYTES", 2**62)
    with pytest.raises(UserError, match=r"team/model needs 6\.1 MB more on the volume.*storage\.size"):
        fetching()
    assert not [request for request in server.requests if "/resolve/" in request.path]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"pytorch_model.bin": b"x", "config.json": b"{}"}, "never read", id="pickles"),
        pytest.param({"model.safetensors": b"x"}, r"has no file config\.json", id="no config"),
    ],
)
def test_a_repository_that_is_no_model_is_named(
    server: FakeHub, fetching: Fetching, files: dict[str, bytes], message: str
) -> None:
    server.model(files=files)
    with pytest.raises(UserError, match=message):
        fetching()


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(server: FakeHub, fetching: Fetching) -> None:
    server.model(files=MODEL, is_gated=True)
    fetching(token=TOKEN)
    tokens = {request.path.startswith("/cdn"): request.token for request in server.requests}
    assert tokens == {False: TOKEN, True: None}


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", COMMIT])
def test_a_branch_a_tag_and_a_commit_are_revisions(
    server: FakeHub, fetching: Fetching, revision: str
) -> None:
    server.model(files=MODEL, refs={"main": COMMIT, "v1.0": COMMIT, "refs/pr/1": COMMIT})
    fetching(repository(revision=revision))
    assert content(fetching.into) == MODEL


def test_a_holder_that_was_overtaken_notices_and_leaves_the_others_lease_alone(tmp_path: Path) -> None:
    folder = tmp_path / "lease"

    def hold() -> None:
        with sole(folder, lambda: False, lambda _: None, beat_seconds=0.01) as lease:
            assert lease is not None
            lease.check()
            (folder / "0002").write_text("another 0 host\n")
            for _ in range(1000):
                time.sleep(0.01)
                lease.check()

    with pytest.raises(LeaseLost):
        hold()
    assert (folder / "0002").read_text() == "another 0 host\n"


def hold_after(num_bytes: int, name: str) -> tuple[Fault, threading.Event]:
    """A connection that brings that many bytes and then nothing until it is closed."""
    hold = threading.Event()
    return Fault(f"cdn/models/team/model/{name}", cut_after=num_bytes, hold=hold), hold


def await_size(path: Path, num_bytes: int) -> None:
    deadline = time.monotonic() + 20
    while not (path.is_file() and path.stat().st_size == num_bytes):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def test_who_was_overtaken_while_it_was_stopped_changes_nothing_when_it_comes_back(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    name = "model-00001-of-00002.safetensors"
    path = fetching.into.parent / f".main.model-team--model.fetching/files/{name}.partial"
    first, close_first = hold_after(1_000_000, name)
    second, close_second = hold_after(500_000, name)
    server.faults = [first, second, Fault(first.ends, ignores_range=True)]
    script = """if True:
        import pathlib, sys
        from harness.fetching import Fetching
        from phitune_trainer import lease
        lease.BEAT_SECONDS = 0.1
        class Said(list):
            def append(self, line): print(line, flush=True)
        one = Fetching(pathlib.Path(sys.argv[1]))
        one.said = Said()
        one()
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(fetching.into)], env=env, stdout=subprocess.PIPE, text=True
    )
    with process, ThreadPoolExecutor(1) as pool, ExitStack() as at_end:
        at_end.callback(process.kill)
        at_end.callback(close_second.set)
        await_size(path, 1_000_000)
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr("phitune_trainer.lease.LOST_SECONDS", 0.3)
        overtaking = pool.submit(fetching)
        await_size(path, 1_500_000)
        close_first.set()
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        while "taken over" not in process.stdout.readline():
            assert process.poll() is None, "it was overtaken"
        assert path.stat().st_size == 1_500_000
        close_second.set()
        overtaking.result(timeout=30)
        assert process.wait(30) == 0
    assert content(fetching.into) == MODEL


def test_what_an_overtaken_process_still_writes_is_noticed(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    name = "model-00001-of-00002.safetensors"
    path = fetching.into.parent / f".main.model-team--model.fetching/files/{name}.partial"
    lease = fetching.into.parent / ".main.model-team--model.lease" / "0001"
    lease.parent.mkdir(parents=True)
    lease.write_text("gone 7 host\n")
    monkeypatch.setattr("phitune_trainer.lease.LOST_SECONDS", 0.2)
    fault, close = hold_after(1_000_000, name)
    server.faults = [fault]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetching)
        await_size(path, 1_000_000)
        with path.open("r+b") as file:
            file.write(b"late")
        close.set()
        running.result(timeout=30)
    assert content(fetching.into) == MODEL
    assert any("fetching it again" in line for line in fetching.said)


def test_a_lease_that_stands_still_is_overtaken(tmp_path: Path) -> None:
    folder, order = tmp_path / "lease", list[str]()
    stuck, go_on = threading.Event(), threading.Event()
    never: Callable[[], bool] = lambda: False  # noqa: E731

    def hold() -> None:
        with sole(folder, never, lambda _: None, beat_seconds=60) as lease:
            assert lease is not None
            order.append("first")
            stuck.set()
            go_on.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    stuck.wait(10)
    waited: list[str] = []
    with sole(folder, never, waited.append, beat_seconds=60, lost_seconds=0.2) as lease:
        assert lease is not None
        order.append("second")
    go_on.set()
    holder.join()
    assert order == ["first", "second"]
    assert waited
    assert not folder.exists()


def test_a_lease_that_beats_is_waited_for(tmp_path: Path) -> None:
    folder, done = tmp_path / "lease", threading.Event()
    started = threading.Event()

    def hold() -> None:
        with sole(folder, done.is_set, lambda _: None, beat_seconds=0.02) as lease:
            assert lease is not None
            started.set()
            time.sleep(0.5)
            lease.check()
            done.set()

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait(10)
    with sole(folder, done.is_set, lambda _: None, lost_seconds=0.2) as lease:
        assert lease is None
    holder.join()
