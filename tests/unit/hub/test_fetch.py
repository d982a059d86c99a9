"""Files of the hub come to the volume whole, once, and go on where they were cut off."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.fetching import MODEL, WEIGHTS, Fetching, content, repository
from harness.hub_server import COMMIT, TOKEN, FakeHub, Fault
from phitune_trainer import hub as hub_module
from phitune_trainer.errors import UserError
from phitune_trainer.folders import is_filled
from phitune_trainer.hub import HubUnavailable
from phitune_trainer.hub_files import MODEL_FILES

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
