"""What stands between a job and the hub is said with its remedy; what heals by itself is waited for."""

from __future__ import annotations

import base64
import errno
import io
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub.constants
import pytest

from harness.fetching import MODEL, Fetching, content, repository
from harness.hub_server import COMMIT, TOKEN, FakeHub, Fault, forward_proxy, make_certificate
from phitune_trainer.errors import UserError, volume_problem
from phitune_trainer.hub import HubUnavailable
from phitune_trainer.hub_connection import PAUSES
from phitune_trainer.transfer import Transfer


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        pytest.param(
            {"is_gated": True},
            None,
            r"gated and there is no token: .*/team/model.*tokenSecret",
            id="gated, no token",
        ),
        pytest.param(
            {"is_gated": True},
            "hf_other",
            "owner of the token has no access: accept",
            id="gated, token of another user",
        ),
        pytest.param({}, "hf_wrong", "refuses the token: it is mistyped, revoked or expired", id="refused"),
        pytest.param(
            {"is_private": True}, None, "is its name right.*if it is private.*tokenSecret", id="private"
        ),
    ],
)
def test_who_may_not_read_is_told_what_to_do(
    server: FakeHub, fetching: Fetching, repo: dict[str, bool], token: str | None, message: str
) -> None:
    server.tokens.add("hf_other")
    server.model(files=MODEL, **repo)
    with pytest.raises(UserError, match=message):
        fetching(token=token)
    assert fetching.pauses == [], "it does not heal by itself"


def test_the_token_of_the_environment_opens_a_gated_model(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL, is_gated=True)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    fetching()
    assert content(fetching.into) == MODEL


@pytest.mark.parametrize("between", ["\n", "\r", "\0", "\t", " ", "\u2019"])
def test_a_token_with_a_character_that_no_token_has_is_refused_at_once_and_never_shown(
    server: FakeHub, fetching: Fetching, between: str
) -> None:
    server.model(files=MODEL)
    with pytest.raises(UserError, match=r"line break.*spec\.model\.tokenSecret") as refused:
        fetching(token=f"hf_one{between}hf_two\n")
    assert "hf_" not in "\n".join([str(refused.value), *fetching.said])
    assert (fetching.pauses, server.requests) == ([], [])


def test_a_header_that_cannot_be_sent_is_never_shown_nor_tried_again(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_USER_AGENT_ORIGIN", "one\ntwo")
    with pytest.raises(HubUnavailable, match="the request cannot be sent") as caught:
        fetching()
    assert "two" not in str(caught.value)
    assert fetching.pauses == []


def test_a_repository_or_revision_that_does_not_exist_is_named(server: FakeHub, fetching: Fetching) -> None:
    with pytest.raises(UserError, match=r"model team/nothing is not at http.*is its name right\?$"):
        fetching(repository("team/nothing"), token=TOKEN)
    server.model(files=MODEL)
    with pytest.raises(UserError, match=r"no revision 'v9'; set spec\.model\.revision"):
        fetching(repository(revision="v9"))
    with pytest.raises(UserError, match="a/b/c is no model of the hub"):
        fetching(repository("a/b/c"))


def test_offline_mode_is_named(server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*model\.path"):
        fetching()


def test_a_limited_rate_is_waited_for_as_long_as_the_server_asks(server: FakeHub, fetching: Fetching) -> None:
    server.model(files=MODEL)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    server.faults = [
        Fault("/revision/main", status=429, headers={"Retry-After": "7"}),
        Fault("/config.json", status=429, headers={"Retry-After": date}),
        Fault("/tokenizer.json", status=503),
    ]
    fetching()
    assert fetching.pauses[0] == 7
    assert 45 < fetching.pauses[1] <= 50
    assert fetching.pauses[2] == PAUSES[0]
    assert any("trying again in 7 s" in line for line in fetching.said)
    server.faults = [Fault("/revision/main", status=429, times=99)]
    with pytest.raises(HubUnavailable, match=r"still limits the rate.*with a token the limit is higher"):
        Fetching(fetching.into.with_name("other"))()


@pytest.mark.parametrize("zone", ["", " -0000", " GMT"])
def test_a_date_to_wait_for_is_one_of_utc_whatever_its_zone(
    server: FakeHub, fetching: Fetching, zone: str
) -> None:
    server.model(files=MODEL)
    date = (datetime.now(UTC) + timedelta(seconds=50)).strftime("%a, %d %b %Y %H:%M:%S")
    server.faults = [Fault("/revision/main", status=503, headers={"Retry-After": f"{date}{zone}"})]
    fetching()
    (pause,) = fetching.pauses
    assert 45 < pause <= 50


@pytest.mark.parametrize("ignores_range", [True, False])
def test_the_same_bytes_again_and_again_are_no_progress(
    server: FakeHub, fetching: Fetching, ignores_range: bool
) -> None:
    server.model(files=MODEL)
    name = "cdn/models/team/model/model-00001-of-00002.safetensors"
    cut = 100_000 if ignores_range else 0
    server.faults = [
        Fault(name, cut_after=100_000),
        Fault(name, times=50, ignores_range=ignores_range, cut_after=cut),
    ]
    with pytest.raises(HubUnavailable, match="stopped answering"):
        fetching()
    assert tuple(fetching.pauses) == PAUSES


def test_a_server_that_refuses_a_range_that_was_not_asked_for_is_not_asked_for_ever(
    server: FakeHub, fetching: Fetching
) -> None:
    server.model(files=MODEL)
    server.faults = [Fault("/resolve/" + COMMIT + "/config.json", status=416, times=50)]
    with pytest.raises(UserError, match="answered 416"):
        fetching()
    assert len(server.fetched("config.json")) == 1


def test_a_password_in_the_mirrors_address_is_used_and_never_shown(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    server.tokens.add(f"Basic {base64.b64encode(b'me:s3cret').decode()}")
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint.replace("://", "://me:s3cret@"))
    server.faults = [Fault("/revision/main", status=503)]
    fetching()
    assert content(fetching.into) == MODEL
    with pytest.raises(UserError) as refused:
        fetching.elsewhere()(repository("team/nothing"))
    monkeypatch.setenv("HF_ENDPOINT", "ftp://me:s3cret@mirror")
    with pytest.raises(UserError, match="HF_ENDPOINT=ftp://mirror: must be like") as wrong:
        fetching.elsewhere()()
    assert any("answered 503" in line for line in fetching.said)
    assert "s3cret" not in "\n".join([*fetching.said, str(refused.value), str(wrong.value)])


def test_a_server_that_keeps_failing_is_a_fault_that_a_restart_may_heal(
    server: FakeHub, fetching: Fetching
) -> None:
    server.faults = [Fault("/revision/main", status=502, times=99)]
    with pytest.raises(HubUnavailable, match=f"answered 502 {len(PAUSES) + 1} times"):
        fetching()
    assert tuple(fetching.pauses) == PAUSES


def test_a_hub_that_is_not_reached_is_said_with_the_way_out_and_tried_again_by_the_job(
    bare_environment: Path, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(
        HubUnavailable, match=r"hub\.invalid cannot be reached with no proxy set.*HF_ENDPOINT"
    ):
        fetching()
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    with pytest.raises(HubUnavailable, match=r"through the proxy http://127\.0\.0\.1:9"):
        fetching()
    assert tuple(fetching.pauses) == 2 * PAUSES


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HF_ENDPOINT", "mirror.example.com", "HF_ENDPOINT=mirror.example.com: must be like https://"),
        ("HF_ENDPOINT", "https://mirror:https", "HF_ENDPOINT=https://mirror:https: must be like https://"),
        ("HTTPS_PROXY", "ftp://proxy", "the proxy ftp://proxy cannot be used"),
        ("SSL_CERT_FILE", "/nowhere/ca.crt", "SSL_CERT_FILE=/nowhere/ca.crt: No such file"),
        ("REQUESTS_CA_BUNDLE", __file__, "REQUESTS_CA_BUNDLE=.*PEM"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(
    server: FakeHub,
    fetching: Fetching,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        fetching()


def test_a_page_that_is_no_hub_is_named(server: FakeHub, fetching: Fetching) -> None:
    server.faults = [Fault("/revision/main", status=200)]
    with pytest.raises(UserError, match="does not answer as a hub does"):
        fetching()


def test_a_proxy_is_used_and_no_proxy_is_heeded(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)
    with forward_proxy() as (proxy, asked):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        fetching()
        assert content(fetching.into) == MODEL
        assert len(asked) == len(server.requests)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        asked.clear()
        Fetching(fetching.into.with_name("other"))()
        assert asked == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_mirror_with_a_ca_of_its_own_is_trusted_once_the_ca_is_named(
    bare_environment: Path,
    fetching: Fetching,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    leaf, authority = certificate
    with FakeHub(leaf) as mirror, forward_proxy() as (proxy, asked):
        mirror.model(files=MODEL)
        monkeypatch.setenv("HF_ENDPOINT", f"{mirror.endpoint}/")
        with pytest.raises(UserError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
            fetching()
        monkeypatch.setenv(variable, str(authority))
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        fetching()
        assert content(fetching.into) == MODEL
        assert {line.split(":")[0] for line in asked} == {"CONNECT localhost", "CONNECT 127.0.0.1"}


def test_a_proxy_that_refuses_is_named(
    bare_environment: Path, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.com")
    with forward_proxy(refuses=True) as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(UserError, match=f"cannot be reached through the proxy {proxy}: 407"):
            fetching()
        assert set(asked) == {"CONNECT hub.example.com:443"}


def test_a_volume_that_fills_up_on_the_way_is_named(
    server: FakeHub, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.model(files=MODEL)

    def is_full(self: object, piece: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    class FullFile(io.FileIO):
        write = is_full  # type: ignore[assignment]

    monkeypatch.setattr("os.fdopen", lambda fd, *_, **__: FullFile(fd, "r+b"))
    with pytest.raises(OSError, match="No space left") as caught:
        fetching()
    told = volume_problem(caught.value, fetching.into.parents[2])
    assert "the volume is full" in str(told)


def test_progress_is_a_line_every_five_seconds_with_rate_and_time_left() -> None:
    said: list[str] = []
    now = [0.0]
    transfer = Transfer("team/model", 8_300_000_000, 300_000_000, said.append, clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.5
        transfer.add(50_000_000)
    assert len(said) == 10
    assert said[0] == "team/model: 800.0 MB of 8.3 GB (10%), 100.0 MB/s, 1m15s left"
