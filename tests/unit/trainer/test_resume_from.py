"""A new run that begins with the weights of another one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.nobody import nobody
from harness.tiny_run import OneRank, TinyEngine, TinyRun
from phitune_trainer.checkpoint.check_together import check_together
from phitune_trainer.checkpoint.files import check
from phitune_trainer.checkpoint.resume_from import find_source
from phitune_trainer.checkpoint.start import begin, restore
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import UserError
from phitune_trainer.run_layout import RunLayout

FIRST = "runs/tests/colors/00000001"
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "vision": False}}


@pytest.fixture
def first(make_config: Any) -> RunLayout:
    """A run of three steps, all of them saved."""
    config = make_config(checkpoint={"keep": 9})
    TinyRun(config).go(3)
    return RunLayout(config.run_dir)


def second(make_config: Any, resume_from: str, **changes: Any) -> TrainConfig:
    config: TrainConfig = make_config(resumeFrom=resume_from, **changes)
    return config.model_copy(update={"run": config.run.model_copy(update={"uid": "00000002"})})


def begun(config: TrainConfig) -> tuple[TinyEngine, int]:
    """The engine as it is before the first step, and that step."""
    world = OneRank(0, 1, torch.device("cpu"), Path(config.run.workspace))
    start = begin(config, world, attempt=1)
    engine: Any = TinyEngine(seed=5)
    restore(RunLayout(config.run_dir), start, engine)
    return engine, start.step


def weights(engine: TinyEngine) -> dict[str, torch.Tensor]:
    return {part.name: part.values for part in engine.fragments() if part.kind == "weight"}


@pytest.mark.parametrize(
    ("folder", "step"),
    [
        pytest.param(FIRST, 3, id="run"),
        pytest.param(f"{FIRST}/incarnations/0001/checkpoints/step-00000002", 2, id="checkpoint"),
    ],
)
def test_it_takes_the_weights_and_begins_optimizer_and_steps_anew(
    folder: str, step: int, make_config: Any, first: RunLayout
) -> None:
    expected: Any = TinyEngine(seed=0)
    for number in range(1, step + 1):
        expected.train(number)
    engine, start = begun(second(make_config, folder))
    assert start == 0
    assert all(torch.equal(one, weights(expected)[name]) for name, one in weights(engine).items())
    assert not any(part.values.any() for part in engine.fragments() if part.kind != "weight")
    assert engine.scalars() == {"adamStep": 0.0}


def test_once_it_has_a_checkpoint_of_its_own_the_other_run_is_not_needed(
    make_config: Any, first: RunLayout
) -> None:
    config = second(make_config, FIRST)
    whole = TinyRun(config).go(4).losses
    shutil.rmtree(first.path)
    shutil.rmtree(RunLayout(config.run_dir).incarnation(1).checkpoint(4))
    continued = TinyRun(config).go(4)
    assert (continued.start.source, continued.losses) == (None, {4: whole[4]})


def test_of_a_run_with_damage_the_newest_good_checkpoint_is_taken(make_config: Any, first: RunLayout) -> None:
    (first.incarnation(1).checkpoint(3) / "trainer.json").write_text("{}")
    source = find_source(second(make_config, FIRST), OneRank(0, 1, torch.device("cpu")), check)
    assert source is not None
    assert source.step == 2
    assert "step-00000003/trainer.json has 2 bytes" in source.passed_over[0]


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        pytest.param("data/colors", {}, "is neither the folder of a run", id="no run"),
        pytest.param(
            f"{FIRST}/incarnations/0001/checkpoints/step-00000009",
            {},
            "manifest.json is missing",
            id="absent",
        ),
        pytest.param(FIRST, LORA, "method: was full, now lora", id="another method"),
        pytest.param(FIRST, {"freezeVision": True}, "freezeVision: was False, now True", id="frozen"),
        pytest.param(FIRST, {"model": {"path": "models/other"}}, "model.path: was models/tiny", id="model"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_with_the_reason(
    folder: str, changes: dict[str, Any], message: str, make_config: Any, first: RunLayout
) -> None:
    with pytest.raises(UserError, match=message):
        begun(second(make_config, folder, **changes))


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        pytest.param("manifest.json", "cannot read {}/manifest.json: .* read access to it", id="the file"),
        pytest.param(".", "cannot reach {}/manifest.json: .* access to the folders", id="its folder"),
    ],
)
def test_where_the_other_run_may_not_be_read_nobody_is_told_to_allow_writing_it(
    closed: str, words: str, make_config: Any, first: RunLayout
) -> None:
    checkpoint = f"{FIRST}/incarnations/0001/checkpoints/step-00000003"
    config = second(make_config, checkpoint)
    volume = Path(config.run.workspace)
    world = OneRank(0, 1, torch.device("cpu"), volume)
    (volume / checkpoint / closed).chmod(0)
    with nobody(volume), pytest.raises(UserError, match=words.format(volume / checkpoint)):
        find_source(config, world, lambda folder: check_together(world, folder, lambda done, total: None))
    (volume / checkpoint / closed).chmod(0o755)


def test_a_run_that_has_begun_refuses_another_resume_from(make_config: Any, first: RunLayout) -> None:
    config = second(make_config, FIRST)
    TinyRun(config).go(1)
    with pytest.raises(UserError, match=f"resumeFrom: was {FIRST}, now absent"):
        TinyRun(config.model_copy(update={"resume_from": None})).go(2)


def test_weights_of_other_shapes_are_refused_before_any_is_taken(make_config: Any, first: RunLayout) -> None:
    config = second(make_config, FIRST)
    start = begin(config, OneRank(0, 1, torch.device("cpu")), attempt=1)
    engine: Any = TinyEngine(seed=5)
    engine._model[2] = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"2 differ, such as 2\.bias: 1 elements there, 2 here"):
        restore(RunLayout(config.run_dir), start, engine)
