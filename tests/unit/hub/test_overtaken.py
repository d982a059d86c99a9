"""Who fetches what another one fetches too: the one that is alive, and nobody else writes then."""

from __future__ import annotations

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

from harness.fetching import MODEL, Fetching, content
from harness.hub_server import FakeHub, Fault
from phitune_trainer.lease import LeaseLost, sole


def hold_after(num_bytes: int, name: str) -> tuple[Fault, threading.Event]:
    """A connection that brings that many bytes and then nothing until it is closed."""
    hold = threading.Event()
    return Fault(f"cdn/models/team/model/{name}", cut_after=num_bytes, hold=hold), hold


def await_size(path: Path, num_bytes: int) -> None:
    deadline = time.monotonic() + 100
    while not (path.is_file() and path.stat().st_size == num_bytes):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


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
    assert [path.name for path in fetching.into.parent.iterdir()] == ["main"]


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
            time.sleep(2)
            lease.check()
            done.set()

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait(10)
    with sole(folder, done.is_set, lambda _: None, lost_seconds=1) as lease:
        assert lease is None
    holder.join()
