"""A rank that dies, hangs or freezes is named by the others, with the last step that it took part in."""

import os
import re
import signal
import time
from typing import Any

import pytest
from torch.distributed import HashStore

from harness.ranks import Gang, training
from phitune_trainer import loop
from phitune_trainer.endings import ending_of
from phitune_trainer.engine import heartbeat
from phitune_trainer.engine.heartbeat import Sign, judge

SMALL = {"globalBatchSize": 4, "microBatchSize": 2, "warmupSteps": 0}
ADAPTERS = {"method": "lora", "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "vision": False}}
LONG = {**ADAPTERS, "training": {**SMALL, "maxSteps": 100_000}, "world": {"processesPerNode": 2}}
NAMED = re.compile(r"after step (\d+): rank (\d) \(host .+\) (.+); its last step was (\d+)$")


def sign(beat: int, *, arrived: int = 7, step: int = 3) -> Sign:
    return Sign(host="worker-1", beat=beat, arrived=arrived, step=step)


@pytest.mark.parametrize(
    ("later", "is_late", "said"),
    [
        pytest.param(sign(5), True, "(host worker-1) gives no sign of life; its last step was 4", id="dead"),
        pytest.param(
            sign(9, arrived=6),
            True,
            "(host worker-1) lives, but the others wait for it in vain; its last step was 4",
            id="hangs",
        ),
        pytest.param(sign(9, arrived=6), False, None, id="still on its way when a connection broke"),
        pytest.param(sign(9), True, None, id="there"),
        pytest.param(sign(9, arrived=6), False, None, id="busy"),
        pytest.param(None, True, "has not come", id="never came"),
    ],
)
def test_signs_tell_who_is_missing(later: Sign | None, is_late: bool, said: str | None) -> None:
    before = {0: sign(4), 1: sign(5, arrived=6)}
    after = {0: sign(8)} | ({} if later is None else {1: later})
    found = judge(before, after, rank=0, size=2, step=4, is_late=is_late)
    assert (found and found.message) == (said and f"rank 1 {said}")


def test_a_rank_that_is_on_its_way_again_is_not_to_blame() -> None:
    before, after = {0: sign(4), 1: sign(5, arrived=5)}, {0: sign(8), 1: sign(9, arrived=6)}
    assert judge(before, after, rank=0, size=2, step=4, is_late=True) is None


@pytest.mark.slow
@pytest.mark.parametrize("comes", [True, False], ids=["it comes while it is looked for", "it never comes"])
def test_a_long_wait_ends_a_run_only_if_it_does_not_end_itself(
    comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_BEAT_SECONDS", 0.05)
    store, given_up = HashStore(), list[str]()
    ranks = [
        heartbeat.Heartbeat(
            store,
            rank=rank,
            size=2,
            host="vm",
            first_host="vm",
            last_step=lambda: 1,
            patience=0.5 if rank else 1000,
            give_up=lambda loss: given_up.append(loss.message),
        )
        for rank in range(2)
    ]
    ranks[1].arrive()
    time.sleep(0.8)  # rank 1 has begun to ask who is missing
    until = time.monotonic() + (2.5 if comes else 60)
    while time.monotonic() < until and not given_up:
        for rank in ranks if comes else ():
            rank.arrive()
        time.sleep(0.01)
    for rank in ranks:
        rank.close()
    lost = "rank 0 (host vm) lives, but the others wait for it in vain; its last step was 1"
    assert set(given_up) == (set() if comes else {lost})


def test_a_rank_that_lets_the_others_wait_does_not_blame_them() -> None:
    before, after = {0: sign(4), 1: sign(5)}, {0: sign(8, arrived=6), 1: sign(9)}
    assert judge(before, after, rank=0, size=2, step=4, is_late=True) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms",
            "CollectiveTimeout",
        ),
        ("Application timeout caused pair closure", "CollectiveTimeout"),
        ("Connection closed by peer [127.0.0.1]:4711", "RankLost"),
        ("Read error [127.0.0.1]:4711: Connection reset by peer", "RankLost"),
        ("NCCL error: remote process exited or there was a network error", "RankLost"),
    ],
)
def test_a_broken_connection_is_told_from_a_fault_by_its_words(words: str, reason: str) -> None:
    assert ending_of(RuntimeError(words))[:2] == (1, reason)
    assert ending_of(ValueError(words))[:2] == (1, "Fault")


def assert_named(gang: Gang, *, by: int, lost: int, what: str, reason: str = "RankLost") -> None:
    """Rank `by` has ended with the name of rank `lost` and the step up to which both came."""
    code, report = gang.wait_for(by), gang.report(by)
    assert (code, report.reason) == (1, reason), report
    named = NAMED.fullmatch(report.message or "")
    assert named is not None, report.message
    step, rank, how, last_step = named.groups()
    assert (int(rank), how) == (lost, what)
    assert int(last_step) >= int(step) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "what"),
    [
        pytest.param(0, "is gone", id="the one that keeps the store"),
        pytest.param(1, "gives no sign of life", id="another"),
    ],
)
def test_a_rank_that_is_killed_is_named_at_once(
    lost: int, what: str, make_config: Any, imported: None, wait_until: Any
) -> None:
    with training(make_config(**LONG)) as gang:
        wait_until(lambda: gang.report(0).steps and gang.report(1).steps)
        os.kill(gang.pid(lost), signal.SIGKILL)
        killed_at = time.monotonic()
        assert_named(gang, by=1 - lost, lost=lost, what=what)
        assert time.monotonic() - killed_at < 20


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["the one that keeps the store", "another"])
def test_a_rank_that_is_frozen_is_named_when_the_time_is_up(
    lost: int, make_config: Any, imported: None, wait_until: Any
) -> None:
    with training(make_config(**LONG), PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="5") as gang:
        wait_until(lambda: gang.report(0).steps and gang.report(1).steps)
        os.kill(gang.pid(lost), signal.SIGSTOP)
        assert_named(gang, by=1 - lost, lost=lost, what="gives no sign of life")


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_when_the_time_is_up(
    make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = loop.train_step

    def hang_in_the_third(run: Any, *rest: Any) -> Any:
        if run.step == 2 and run.world.rank == 1:
            time.sleep(1000)
        return take_step(run, *rest)

    monkeypatch.setattr(loop, "train_step", hang_in_the_third)
    with training(make_config(**LONG), PHITUNE_COLLECTIVE_TIMEOUT_SECONDS="5") as gang:
        vain = "lives, but the others wait for it in vain"
        assert_named(gang, by=0, lost=1, what=vain, reason="CollectiveTimeout")
        assert gang.report(0).message.startswith("after step 2: ")


@pytest.mark.slow
def test_a_rank_that_fails_by_itself_tells_the_others_why(
    make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = loop.train_step

    def fail_in_the_third(run: Any, *rest: Any) -> Any:
        if run.step == 2 and run.world.rank == 1:
            raise ZeroDivisionError("the third step")
        return take_step(run, *rest)

    monkeypatch.setattr(loop, "train_step", fail_in_the_third)
    with training(make_config(**LONG)) as gang:
        assert gang.wait() == [1, 1]
        assert gang.report(1).reason == "Fault"
        assert gang.report(0).reason == "RankLost"
        said = gang.report(0).message
        assert re.fullmatch(
            r"after step 2: rank 1 \(host .+\) ended: ZeroDivisionError: the third step", said
        )
