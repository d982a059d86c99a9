"""A hub on loopback, and an environment in which nothing else is known of any hub or proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from harness.fetching import Fetching
from harness.hub_server import FakeHub

_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PHITUNE_DATA_TOKEN",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    *(
        name
        for proxy in ("HTTP", "HTTPS", "ALL", "NO")
        for name in (f"{proxy}_PROXY", f"{proxy}_proxy".lower())
    ),
)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No token, proxy or certificate of the machine; the home of the hub's client, which must stay empty."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "hf-home"
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(home))
    return home


@pytest.fixture
def server(bare_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that HF_ENDPOINT names."""
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "volume" / "models" / "team--model" / "main")
