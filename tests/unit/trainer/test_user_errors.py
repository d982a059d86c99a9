"""What only the user can mend ends every rank with the same clear message."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phitune_trainer.config import TrainConfig
from phitune_trainer.data.workers import InProcess
from phitune_trainer.endings import ending_of
from phitune_trainer.engine.world import World
from phitune_trainer.errors import UserError
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_config
from phitune_trainer.stop import StopRequest
from phitune_trainer.train import run_rank


def ending(config: TrainConfig) -> Any:
    def run(world: World) -> tuple[int, str, str]:
        progress = Progress(attempt=1)
        narrator = Narrator(world.rank, Path(config.run.workspace), progress)
        try:
            return 0, "Completed", run_rank(config, world, narrator, progress, StopRequest(), InProcess())
        except Exception as error:  # noqa: BLE001 - as train.py does
            return ending_of(error)

    return run


def break_line(workspace: Path) -> None:
    with (workspace / "data/colors/train.jsonl").open("a") as file:
        file.write('{"id": "x", "conversations": [}\n')


def remove_picture(workspace: Path) -> None:
    (workspace / "data/colors/images/8.png").unlink()


def replace_picture(workspace: Path) -> None:
    (workspace / "data/colors/images/8.png").write_text("not a picture")


def remove_model(workspace: Path) -> None:
    (workspace / "models/tiny").unlink()


def cut_model(workspace: Path) -> None:
    whole = workspace / "models/tiny"
    copy = shutil.copytree(whole, workspace / "models/copy")
    whole.unlink()
    copy.rename(whole)
    next(copy.parent.glob("tiny/*.safetensors")).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(break_line, ["train.jsonl:25", "JSON"], id="malformed line"),
        pytest.param(remove_picture, ["train.jsonl:9", "8.png"], id="missing picture"),
        pytest.param(replace_picture, ["train.jsonl:9", "8.png"], id="not a picture"),
        pytest.param(remove_model, ["models/tiny"], id="no base model"),
        pytest.param(cut_model, ["models/tiny", ".safetensors"], id="incomplete base model"),
    ],
)
def test_all_ranks_say_what_and_where(
    spoil: Any, words: list[str], workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    spoil(workspace)
    config = make_config(world={"processesPerNode": 2}, training={"microBatchSize": 6})
    endings = in_ranks(2, ending(config))
    assert endings[0] == endings[1]
    code, reason, message = endings[0]
    assert (code, reason) == (2, "UserError")
    assert all(word in message for word in words), message
    assert "Traceback" not in message


def test_a_changed_config_is_refused_by_naming_each_key(tmp_path: Path, make_config: Any) -> None:
    layout = RunLayout(tmp_path / "run")
    keep_config(layout, make_config())
    keep_config(layout, make_config(checkpoint={"keep": 5}, world={"nodes": 2}))
    with pytest.raises(Exception, match=r"another config") as refused:
        keep_config(layout, make_config(training={"learningRate": 0.5, "seed": 4}))
    lines = str(refused.value).splitlines()[1:]
    assert lines == ["training.learningRate: was 0.001, now 0.5", "training.seed: was 0, now 4"]


def test_a_run_of_a_version_that_did_not_know_a_key_goes_on_with_its_default(
    tmp_path: Path, make_config: Any
) -> None:
    layout = RunLayout(tmp_path / "run")
    keep_config(layout, make_config())
    text = layout.config.read_text()
    assert text.count("freezeVision: false\n") == 1
    layout.config.write_text(text.replace("freezeVision: false\n", ""))
    keep_config(layout, make_config())
    with pytest.raises(UserError, match=r"\nfreezeVision: was False, now True$"):
        keep_config(layout, make_config(freezeVision=True))


@pytest.mark.parametrize(
    ("added", "said"),
    [
        pytest.param("later: 1\n", r"\nlater: was 1, now absent$", id="a key of a newer version"),
        pytest.param("a: [", r"config\.yaml is damaged \(.+\); restore it", id="not YAML"),
    ],
)
def test_what_this_version_cannot_read_of_a_runs_config_is_named(
    added: str, said: str, tmp_path: Path, make_config: Any
) -> None:
    layout = RunLayout(tmp_path / "run")
    keep_config(layout, make_config())
    layout.config.write_text(layout.config.read_text() + added)
    with pytest.raises(UserError, match=said):
        keep_config(layout, make_config())


def test_flash_attention_that_cannot_run_on_the_device_is_the_users_to_change(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    config = make_config()
    flash = config.training.model_copy(update={"attention": "flash", "precision": "bf16"})
    ((code, reason, message),) = in_ranks(1, ending(config.model_copy(update={"training": flash})))
    assert (code, reason) == (2, "UserError")
    assert message.startswith("training.attention: flash cannot run here, ")
    assert message.endswith("; use auto or sdpa")


def test_ranks_of_one_run_agree_on_their_trained_weights(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    config = make_config(
        world={"processesPerNode": 2},
        training={"maxSteps": 1},
        data={"eval": "eval.jsonl"},
        evaluation={"enabled": True, "baseline": True},
        export={"merged": True},
    )
    assert [code for code, _, _ in in_ranks(2, ending(config))] == [0, 0]
    proofs = [json.loads((workspace / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert proofs[0]["parametersHash"] == proofs[1]["parametersHash"]
    assert [proof["samples"] for proof in proofs] == [6, 6]
    layout = RunLayout(config.run_dir)
    predictions = (layout.incarnation(1).evaluation(1) / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["sample"].rpartition(":")[2] for line in predictions] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]
    result = json.loads(layout.result.read_text())
    assert result["evaluation"]["samples"] == 5
    assert result["evaluation"]["baseline"] == 0.0
    assert result["lastCheckpoint"]["step"] == 1
    assert (layout.export / "merged" / "config.json").is_file()
