"""An export is put on a hub by the real client, and what comes back from there is the same, bit for bit."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import huggingface_hub.utils._http
import pytest
import torch
from huggingface_hub.utils._runtime import is_xet_available

from harness.fetching import MODEL, WEIGHTS, Fetching, content, repository
from harness.hub_server import TOKEN, FakeHub, Fault
from phitune_cli.main import main
from phitune_trainer.config import Lora
from phitune_trainer.errors import UserError
from phitune_trainer.hub_connection import HubUnavailable
from phitune_trainer.hub_files import MODEL_FILES
from phitune_trainer.hub_push import Publisher, Target
from phitune_trainer.init_model import init_model
from phitune_trainer.methods.adapter_folder import save_adapter, write_about
from phitune_trainer.methods.lora import add_adapters
from phitune_trainer.model import load_model
from phitune_trainer.model.load import check_model

# The client hands open files to httpx in a way that httpx would like to see changed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = b"---\ntags: [phitune]\n---\n\n# digits\n"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client itself would make."""
    waits: list[float] = []
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", waits.append)
    return waits


@pytest.fixture
def hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub on which the token of the environment may write what is of `team`."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of two files of weights."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name, data in {**MODEL, "README.md": CARD}.items():
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_text("no part of an export")
    return folder


SAID: list[str] = []


@pytest.fixture(autouse=True)
def said() -> list[str]:
    """What was said while pushing."""
    SAID.clear()
    return SAID


def push(
    folder: Path, name: str = "team/model", *, private: bool = False, revision: str | None = None
) -> str:
    target = Target(name=name, private=private, revision=revision)
    with Publisher(SAID.append, target, pause=lambda _: None) as publisher:
        return publisher.push(folder, "an export")


def stored(hub: FakeHub) -> list[str]:
    return [request.path for request in hub.requests if request.method == "PUT"]


@pytest.mark.parametrize("part_bytes", [None, 2**20], ids=["in one piece", "in parts"])
def test_what_is_pushed_is_fetched_back_bit_for_bit(
    hub: FakeHub, export: Path, fetching: Fetching, part_bytes: int | None
) -> None:
    hub.storage.part_bytes = part_bytes
    address = push(export)
    repo = hub.repos["models/team/model"]
    assert address == f"{hub.endpoint}/team/model/tree/{repo.commit}"
    assert repo.files == {**MODEL, "README.md": CARD}
    assert len(stored(hub)) == (2 if part_bytes is None else 2 * 3)
    fetching()
    assert content(fetching.into) == MODEL


def test_the_same_push_again_sends_no_bytes_and_makes_no_commit(hub: FakeHub, export: Path) -> None:
    first = push(export)
    hub.requests.clear()
    assert push(export) == first
    assert stored(hub) == []
    assert not [request for request in hub.requests if "/commit/" in request.path]


def test_weights_of_an_earlier_push_go_and_other_files_stay(
    hub: FakeHub, export: Path, said: list[str]
) -> None:
    push(export)
    hub.repos["models/team/model"].files["notes.md"] = b"of the user"
    (export / SHARD).unlink()
    (export / "model.safetensors.index.json").write_bytes(b'{"weight_map": {}}')
    push(export)
    assert SHARD not in hub.repos["models/team/model"].files
    assert hub.repos["models/team/model"].files["notes.md"] == b"of the user"
    assert f"{SHARD} is of an earlier push, and is removed" in said


@pytest.mark.parametrize(
    ("ends", "num_stored"),
    [
        pytest.param("/preupload/main", 0, id="before the first file"),
        pytest.param(f"/lfs/{hashlib.sha256(WEIGHTS[::-1]).hexdigest()}", 1, id="within the second file"),
        pytest.param("/commit/main", 2, id="at the commit"),
    ],
)
def test_a_push_that_is_cut_off_leaves_nothing_half_and_the_next_one_goes_on(
    hub: FakeHub, export: Path, fetching: Fetching, ends: str, num_stored: int
) -> None:
    hub.faults = [Fault(ends, times=99, cut_after=1000)]
    with pytest.raises(HubUnavailable, match="stopped answering"):
        push(export)
    assert hub.repos["models/team/model"].files == {}
    assert len(hub.storage.objects) == num_stored
    hub.faults = []
    hub.requests.clear()
    push(export)
    assert len(stored(hub)) == 2 - num_stored
    fetching()
    assert content(fetching.into) == MODEL


def test_a_passing_fault_of_the_hub_is_waited_for(hub: FakeHub, export: Path, said: list[str]) -> None:
    hub.faults = [Fault("/api/repos/create", status=503), Fault("/commit/main", status=503)]
    push(export)
    assert hub.repos["models/team/model"].files == {**MODEL, "README.md": CARD}
    assert said.count(f"{hub.endpoint} answered 503; trying again in 1 s") == 2


def test_a_hub_that_keeps_failing_is_given_up_in_one_sentence(hub: FakeHub, export: Path) -> None:
    hub.faults = [Fault("/info/lfs/objects/batch", status=500, times=99)]
    with pytest.raises(HubUnavailable, match="keeps answering 500"):
        push(export)


def test_another_branch_is_made_and_main_stays_as_it_is(
    hub: FakeHub, export: Path, fetching: Fetching
) -> None:
    push(export)
    (export / "config.json").write_bytes(b'{"a": 2}')
    push(export, revision="step-400")
    push(export, revision="step-400")
    assert hub.repos["models/team/model"].files["config.json"] == MODEL["config.json"]
    assert hub.repos["models/team/model@step-400"].files["config.json"] == b'{"a": 2}'


def test_a_private_repository_is_made_private_and_a_public_one_is_not_taken_for_it(
    hub: FakeHub, export: Path
) -> None:
    push(export, "team/secret", private=True)
    assert hub.repos["models/team/secret"].is_private
    push(export, "team/secret", private=True)
    hub.model("team/open", files={})
    with pytest.raises(UserError, match="everybody can see it; leave out --private, make it private at"):
        push(export, "team/open", private=True)
    assert hub.repos["models/team/open"].files == {}


def test_without_a_token_nothing_is_asked_of_the_hub(server: FakeHub, export: Path) -> None:
    with pytest.raises(UserError, match=r"needs a token that may write: .* set HF_TOKEN, or log in"):
        push(export)
    assert server.requests == []


def test_the_token_of_a_login_is_used(server: FakeHub, export: Path, bare_environment: Path) -> None:
    bare_environment.mkdir()
    (bare_environment / "token").write_text(f"{TOKEN}\n")
    push(export)
    assert {request.token for request in server.requests if request.path.startswith("/api/")} == {TOKEN}


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        pytest.param("hf_wrong", "team/model", "refuses the token: it is mistyped", id="refused token"),
        pytest.param(TOKEN, "others/model", "forbids it .* rights .* belong to, others", id="another's"),
        pytest.param(TOKEN, "team/mo del", "--push-to team/mo del: .* name it as OWNER/NAME", id="no name"),
        pytest.param(TOKEN, "model", "--push-to model: has no owner", id="no owner"),
    ],
)
def test_who_may_not_write_is_told_what_to_do(
    server: FakeHub, export: Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words) as refused:
        push(export, name)
    assert token not in str(refused.value)
    assert stored(server) == []


def test_a_card_that_the_hub_cannot_read_is_refused_before_a_byte_is_sent(hub: FakeHub, export: Path) -> None:
    (export / "README.md").write_text("---\ntags: [\n---\n")
    with pytest.raises(UserError, match=r"does not take it: Invalid metadata in README\.md"):
        push(export)
    assert hub.repos["models/team/model"].files == {}


def test_neither_token_nor_the_addresses_of_the_storage_are_ever_said(
    hub: FakeHub,
    export: Path,
    said: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    hub.faults = [Fault(f"/lfs/{hashlib.sha256(WEIGHTS).hexdigest()}", status=500, times=2)]
    push(export)
    told = "\n".join([*said, *(record.getMessage() for record in caplog.records)])
    assert TOKEN not in told
    assert "/lfs/" not in told


def test_bytes_go_by_plain_http_though_the_client_has_xet(hub: FakeHub, export: Path) -> None:
    assert is_xet_available()
    push(export)
    assert len(stored(hub)) == 2
    assert not [request for request in hub.requests if "xet" in request.path]


def test_how_far_it_is_is_said_every_few_seconds(
    hub: FakeHub, export: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phitune_trainer.transfer.SECONDS_BETWEEN_LINES", 0.0)
    push(export)
    assert said[0] == f"pushing 6 files, 6.1 MB, to {hub.endpoint}/team/model"
    assert any(line.startswith("team/model: 3.") and "of 6.1 MB (5" in line for line in said)
    assert said[-1].startswith("team/model: 6.1 MB of 6.1 MB (100%)")


def test_the_command_merges_and_pushes_what_another_job_fetches_as_its_base(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, merged = (tmp_path / name for name in ("base", "adapter", "merged"))
    init_model("tiny", base, 0)
    model = load_model(base, dtype=torch.float32, attention="sdpa")
    peft_model, _ = add_adapters(model, Lora(rank=2, alpha=4.0, dropout=0.0, vision=False), seed=0)
    save_adapter(peft_model, adapter, "lora")
    push_to = ["--push-to", "team/digits", "--private"]
    assert main(["export", str(base), *push_to]) == 2
    assert "was not exported by Phitune" in capsys.readouterr().err
    assert main(["export", str(adapter), "--base", str(base), "--to", str(merged), *push_to]) == 0
    captured = capsys.readouterr()
    repo = hub.repos["models/team/digits"]
    address = f"{hub.endpoint}/team/digits/tree/{repo.commit}"
    assert captured.out == f"{merged}\n{address}\n"
    assert TOKEN not in captured.out + captured.err
    assert repo.files == content(merged)

    assert main(["export", str(merged), *push_to]) == 0
    assert capsys.readouterr().out == f"{merged}\n{address}\n", "it is there already"

    fetching = Fetching(tmp_path / "volume" / "models" / "team--digits" / "main", MODEL_FILES)
    fetching(repository("team/digits"), token=TOKEN)
    own = {"README.md", "phitune.json"}
    assert content(fetching.into) == {name: data for name, data in repo.files.items() if name not in own}
    assert check_model(fetching.into) == check_model(base)


def test_the_command_ends_with_1_where_the_hub_fails_and_says_how_to_go_on(
    hub: FakeHub, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phitune_trainer.hub_connection.PAUSES", ())
    (export / "config.json").write_text("{}")
    write_about(export, "full", kind="merged", source="a run")
    hub.faults = [Fault("/api/repos/create", status=503, times=99)]
    assert main(["export", str(export), "--push-to", "team/model"]) == 1
    assert capsys.readouterr().err.endswith("what has been stored there stays, the same command goes on\n")
