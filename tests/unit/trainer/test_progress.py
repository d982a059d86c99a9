"""What rank 0 answers over HTTP."""

import json
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from phitune_trainer.progress import Progress, progress_host, serve


@pytest.fixture
def progress() -> Progress:
    progress = Progress(attempt=3)
    progress.update(state="training", step=5, totalSteps=20, loss=0.5, learningRate=1e-4)
    return progress


@pytest.fixture
def url(progress: Progress) -> Iterator[str]:
    server = serve(progress, 0, "127.0.0.1")
    assert server is not None
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_progress_is_json_and_follows_the_run(url: str, progress: Progress) -> None:
    with urlopen(f"{url}/progress") as answer:
        assert answer.headers["Content-Type"] == "application/json"
        first = json.load(answer)
    assert {name: first[name] for name in ("version", "attempt", "state", "step", "percent", "loss")} == {
        "version": 1,
        "attempt": 3,
        "state": "training",
        "step": 5,
        "percent": 25.0,
        "loss": 0.5,
    }
    progress.update(step=20, state="done")
    with urlopen(f"{url}/progress") as answer:
        assert json.load(answer)["percent"] == 100.0


def test_metrics_are_prometheus_text_without_what_is_not_known(url: str, progress: Progress) -> None:
    progress.update(evaluation={"metric": "exactMatch", "value": 0.75, "baseline": None, "samples": 4})
    with urlopen(f"{url}/metrics") as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.read().decode().splitlines()
    assert "phitune_step 5" in lines
    assert "# TYPE phitune_loss gauge" in lines
    assert 'phitune_score{metric="exactMatch"} 0.75' in lines
    assert not [line for line in lines if "mfu" in line]


def test_health_and_unknown_paths(url: str) -> None:
    with urlopen(f"{url}/healthz") as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{url}/secrets")
    refused.value.close()
    assert refused.value.code == 404


def test_a_taken_port_does_not_stop_the_training(progress: Progress) -> None:
    first = serve(progress, 0, "127.0.0.1")
    assert first is not None
    try:
        assert serve(progress, first.server_address[1], "127.0.0.1") is None
    finally:
        first.shutdown()
        first.server_close()


def test_a_field_that_the_api_does_not_have_is_refused(progress: Progress) -> None:
    with pytest.raises(TypeError, match="etaseconds"):
        progress.update(etaseconds=3)


def test_numbers_that_json_cannot_say_become_null(url: str, progress: Progress) -> None:
    progress.update(loss=float("nan"), etaSeconds=float("inf"), evaluation={"metric": "m", "value": 1.0})
    with urlopen(f"{url}/progress") as answer:
        text = answer.read().decode()
    now = json.loads(text, parse_constant=pytest.fail)
    assert (now["loss"], now["etaSeconds"], now["evaluation"]["value"]) == (None, None, 1.0)
    assert "phitune_loss" not in progress.metrics()


def test_answers_everywhere_unless_told_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHITUNE_PROGRESS_HOST", raising=False)
    assert progress_host() == "0.0.0.0"
    monkeypatch.setenv("PHITUNE_PROGRESS_HOST", "127.0.0.1")
    assert progress_host() == "127.0.0.1"
