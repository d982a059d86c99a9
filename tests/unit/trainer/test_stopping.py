"""A request to stop, at whatever moment it comes: exit code 75, nothing lost, and the next start goes on."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from harness.ranks import Gang, training
from phitune_trainer import finish, loop, train
from phitune_trainer.checkpoint import saver
from phitune_trainer.config import TrainConfig
from phitune_trainer.engine import world
from phitune_trainer.errors import FAULT
from phitune_trainer.evaluate import evaluation
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.run_layout import RunLayout

ADAPTERS = {"method": "lora", "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1, "vision": False}}
LOADING, EXPORTING = "stopped while loading; nothing is lost", "stopped while exporting; step 4 is saved"
AT_ONCE = {INTERRUPTED, -signal.SIGTERM}
"""How a rank may end: its launcher takes one that had not yet begun to listen for an interrupted one."""


def small_run(make_config: Any, *, ranks: int, uid: str = "00000001", **changes: Any) -> TrainConfig:
    """A run of 4 steps that scores before, in the middle and at the end, saves in between, and exports."""
    training = {"maxSteps": 4, "globalBatchSize": 4, "microBatchSize": 2, "warmupSteps": 0}
    config: TrainConfig = make_config(
        **{**ADAPTERS, **changes},
        run={"uid": uid},
        training=training,
        world={"processesPerNode": ranks},
        data={"eval": "eval.jsonl"},
        checkpoint={"everySteps": 1},
        evaluation={"enabled": True, "baseline": True, "everySteps": 2, "maxSamples": 2},
        export={"merged": True, "adapter": True},
    )
    return config


def losses(config: TrainConfig) -> dict[int, float]:
    """The loss of each step, by the last start that took it."""
    layout, found = RunLayout(config.run_dir), {}
    for number in layout.incarnation_numbers():
        metrics = layout.incarnation(number).metrics
        rows = metrics.read_text().splitlines() if metrics.is_file() else []
        found.update({row["step"]: row["loss"] for row in map(json.loads, rows)})
    return found


def run_to_its_end(config: TrainConfig) -> None:
    with training(config) as gang:
        assert set(gang.wait()) == {DONE}


def signal_first_call(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    *,
    rank: int | None = None,
    when: Callable[..., bool],
) -> None:
    """Let ranks send themselves SIGTERM when they come to a function; `rank`: only that one."""
    function, is_sent = getattr(owner, name), []

    def signal_and_go_on(*arguments: Any, **options: Any) -> Any:
        mine = rank is None or os.environ["RANK"] == str(rank)
        if mine and not is_sent and when(*arguments, **options):
            is_sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, signal_and_go_on)


def always(*_: Any, **__: Any) -> bool:
    return True


STAGES = {
    "the data is opened": (train, "load_datasets", always, LOADING),
    "the model is loaded": (train, "load_method", always, LOADING),
    "the engine is built": (train, "build_engine", always, LOADING),
    "the base model is scored": (
        evaluation,
        "generate",
        always,
        "stopped before the first step; nothing is lost",
    ),
    "a step is taken": (
        loop,
        "train_step",
        lambda run, *_: run.step == 1,
        "stopped after step 2 of 4; saved",
    ),
    "a checkpoint is written": (saver, "write_state", always, "of 4; saved, and continues from there"),
    "weights are scored": (
        loop.Run,
        "evaluate",
        lambda run: run.step == 2,
        "stopped after step 2 of 4; saved, and continues from there",
    ),
    "the last weights are scored": (
        loop.Run,
        "evaluate",
        lambda run: run.step == 4,
        "stopped after step 4 of 4; saved, and continues from there",
    ),
    "the model is exported": (finish, "export", always, EXPORTING),
    "the result is written": (finish, "write_result", always, EXPORTING),
}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[int, float]]:
    """The losses of runs that were never stopped, by their kind; filled in by the first test of a kind."""
    return {}


QUICK = ("the model is loaded", "a checkpoint is written")


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage in QUICK else pytest.mark.slow) for stage in STAGES]
)
def test_a_signal_ends_the_run_and_the_next_start_goes_on_bit_for_bit(
    stage: str, make_config: Any, imported: None, uninterrupted: Any
) -> None:
    if "small" not in uninterrupted:
        whole = small_run(make_config, ranks=1, uid="00000002")
        run_to_its_end(whole)
        uninterrupted["small"] = losses(whole)
    config = small_run(make_config, ranks=1)
    owner, name, when, said = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        signal_first_call(patch, owner, name, when=when)
        with training(config) as gang:
            assert gang.wait() == [INTERRUPTED]
            report = gang.report(0)
    assert report.reason == "Interrupted"
    assert said in report.message
    run_to_its_end(config)
    assert losses(config) == uninterrupted["small"]
    assert len(uninterrupted["small"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        pytest.param(train, "load_method", LOADING, id="while loading"),
        pytest.param(loop, "train_step", "stopped after step 1 of 4; saved", id="while training"),
        pytest.param(finish, "write_result", EXPORTING, id="while exporting"),
    ],
)
def test_a_rank_that_is_told_alone_takes_the_others_with_it(
    owner: Any, name: str, said: str, make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_first_call(monkeypatch, owner, name, rank=0, when=always)
    with training(small_run(make_config, ranks=2)) as gang:
        assert gang.wait() == [INTERRUPTED] * 2
        for rank in (0, 1):
            assert gang.report(rank).reason == "Interrupted"
            assert said in gang.report(rank).message


@pytest.mark.slow
def test_a_rank_that_waits_for_a_busy_one_ends_by_itself(
    make_config: Any, imported: None, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_long(*_: Any) -> None:
        Path(config.run.workspace, "busy").touch()
        time.sleep(1000)

    monkeypatch.setattr(train, "keep_config", take_long)
    config = small_run(make_config, ranks=2)
    with training(config) as gang:
        wait_until(Path(config.run.workspace, "busy").is_file)
        os.kill(gang.pid(1), signal.SIGTERM)
        assert gang.wait_for(1) == INTERRUPTED
        assert gang.report(1).message == LOADING


BEGINNING = {
    "the config is read": (train, "load_config"),
    "the store is opened": (world, "_open_store"),
    "signs of life begin": (world, "Heartbeat"),
    "the ranks connect": (distributed, "init_process_group"),
}


@pytest.mark.parametrize("first", [0, 1], ids=["the one that the others meet at first", "another first"])
@pytest.mark.parametrize("moment", BEGINNING)
def test_ranks_that_are_stopped_one_by_one_while_they_meet_end_at_once(
    moment: str, first: int, make_config: Any, imported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods are stopped one by one, and the wait for the first one, which never comes, runs no Python."""
    signal_first_call(monkeypatch, *BEGINNING[moment], rank=first, when=always)
    with training(small_run(make_config, ranks=2)) as gang:
        assert gang.wait_for(first) == -signal.SIGTERM
        time.sleep(0.2)  # until the other one waits
        gang.send(signal.SIGTERM)
        told_at = time.monotonic()
        assert gang.wait_for(1 - first) in {-signal.SIGTERM, FAULT}  # a fault: it has lost the first one
        assert time.monotonic() - told_at < 10


def stopped_at(gang: Gang, after: float) -> set[int | None]:
    """How the ranks end after a signal that comes so many seconds after their start."""
    time.sleep(after)
    gang.send(signal.SIGTERM)
    told_at = time.monotonic()
    codes = set(gang.wait())
    assert time.monotonic() - told_at < 30
    return codes


@pytest.mark.slow
def test_a_run_that_is_stopped_at_any_moments_is_the_run_that_never_was(
    make_config: Any, imported: None
) -> None:
    whole = small_run(make_config, ranks=2, uid="00000000")
    began_at = time.monotonic()
    run_to_its_end(whole)
    seconds, moments = time.monotonic() - began_at, random.Random(0)
    runs = [small_run(make_config, ranks=2, uid="00000001")]
    num_stopped = 0
    for _ in range(12):
        with training(runs[-1]) as gang:
            codes = stopped_at(gang, moments.uniform(0, seconds))
        if codes == {DONE}:
            runs.append(small_run(make_config, ranks=2, uid=f"{len(runs) + 1:08}"))
        else:
            assert codes <= AT_ONCE
            num_stopped += 1
    assert num_stopped
    for run in runs:
        run_to_its_end(run)
        assert losses(run) == losses(whole)
