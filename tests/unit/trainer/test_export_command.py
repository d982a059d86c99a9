"""`phitune export`: whole weights and adapters of what a run trained, which answer as the run did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel

from harness.finished_runs import finished
from phitune_cli.main import main
from phitune_trainer.config import TrainConfig
from phitune_trainer.load_trained import load_trained, locate
from phitune_trainer.model import Phi3V, Sample, collate, load_model
from phitune_trainer.model.files import COMPANIONS, INDEX
from phitune_trainer.model_config import ModelFilesError
from phitune_trainer.prepare import prepare
from phitune_trainer.run_layout import RunLayout

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}
SCORED: dict[str, Any] = {
    "data": {"eval": "eval.jsonl"},
    "evaluation": {"enabled": True, "baseline": True},
    "training": {"maxSteps": 4, "microBatchSize": 12, "learningRate": 5e-3},
    "checkpoint": {"everySteps": 2, "keep": 3},
}
BOTH = {"merged": True, "adapter": True}


def phitune(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata of a model card, and its text."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run below is kept for the next test."""
    return tmp_path_factory.mktemp("kept") / "runs"


@pytest.fixture
def lora_run(
    workspace: Path, make_config: Callable[..., TrainConfig], in_ranks: Any, kept: Path
) -> RunLayout:
    """A finished run that exported both kinds; after the first test it lies on another volume than before."""
    config = make_config(**LORA, **SCORED, export=BOTH)
    if kept.exists():
        shutil.copytree(kept, workspace / "runs")
    else:
        finished(config, in_ranks)
        shutil.copytree(workspace / "runs", kept)
    return RunLayout(config.run_dir)


def test_run_checkpoint_and_adapter_become_the_weights_that_the_run_exported(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = lora_run.export / "merged"
    for number, source in enumerate(
        (lora_run.path, lora_run.incarnation(1).checkpoint(4), lora_run.export / "adapter")
    ):
        out = workspace / f"out-{number}"
        assert phitune("export", source, "--to", out) == 0
        captured = capsys.readouterr()
        assert captured.out == f"{out}\n"
        assert "loading " in captured.err
        assert "model-00001-of-00001.safetensors" in captured.err
        assert weights(out) == weights(expected)
        assert card(out) == card(expected)
        for name in (INDEX, *COMPANIONS):
            assert (out / name).is_file() == (expected / name).is_file()
            assert not (out / name).is_file() or (out / name).read_bytes() == (expected / name).read_bytes()
    assert {path.name for path in expected.iterdir()} - {*COMPANIONS, *weights(expected)} == {
        INDEX,
        "README.md",
        "phitune.json",
    }

    out = workspace / "adapter"
    assert phitune("export", lora_run.path, "--adapter", "--to", out) == 0
    assert weights(out) == weights(lora_run.export / "adapter")
    assert card(out) == card(lora_run.export / "adapter")

    earlier = workspace / "earlier"
    assert phitune("export", lora_run.incarnation(1).checkpoint(2), "--to", earlier) == 0
    assert weights(earlier) != weights(expected)
    assert "2 steps" in card(earlier)[1]
    assert "model-index" not in card(earlier)[0], "the weights of step 2 were never scored"


def test_exports_of_the_command_answer_as_the_run_did(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, adapter = workspace / "merged", workspace / "adapter"
    assert phitune("export", lora_run.path, "--to", merged) == 0
    capsys.readouterr()
    assert phitune("export", lora_run.path, "--adapter", "--to", adapter, "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"kind": "adapter", "path": str(adapter), "pushedTo": None}
    end = (lora_run.incarnation(1).evaluation(4) / "predictions.jsonl").read_text().splitlines()
    named = ["--task", "jsonl", "--data", workspace / "data/colors/eval.jsonl"]
    for number, options in enumerate(([merged], [adapter, "--base", workspace / "models/tiny"])):
        out = workspace / f"scored-{number}"
        assert phitune("evaluate", *options, *named, "--out", out) == 0
        answers = (out / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(row)["prediction"] for row in answers] == [
            json.loads(row)["prediction"] for row in end
        ]
    capsys.readouterr()
    question = ["--image", workspace / "data/colors/images/1.png", "--prompt", "What is shown?"]
    assert phitune("predict", "--model", merged, *question) == 0
    assert capsys.readouterr().out.strip() == json.loads(end[1])["prediction"]


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_an_export_away_from_its_run_is_asked_with_as_many_crops_of_a_picture_as_it_was_trained_with(
    kind: str, lora_run: RunLayout, workspace: Path
) -> None:
    base = workspace / "models/tiny"
    theirs = json.loads((base / "preprocessor_config.json").read_text())
    export = shutil.copytree(lora_run.export / kind, workspace / "downloaded")
    assert theirs["num_crops"] != 1
    assert json.loads((export / "preprocessor_config.json").read_text()) == {**theirs, "num_crops": 1}
    beside = ["--base", base] if kind == "adapter" else []
    command = ["evaluate", export, *beside, "--data", workspace / "data/colors", "--max-samples", 1]
    for number, (options, num_crops) in enumerate([([], 1), (["--num-crops", 2], 2)]):
        out = workspace / f"scored-{number}"
        assert phitune(*command, *options, "--out", out) == 0
        assert json.loads((out / "metrics.json").read_text())["asked"]["numCrops"] == num_crops


def test_a_number_of_crops_that_cannot_be_is_named_with_its_file(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = shutil.copytree(lora_run.export / "merged", workspace / "downloaded")
    about = json.loads((export / "phitune.json").read_text())
    (export / "phitune.json").write_text(json.dumps({**about, "numCrops": "many"}))
    assert phitune("predict", "--model", export, "--prompt", "What is shown?") == 2
    assert "phitune.json: numCrops must be a whole number from 1 to 16, got 'many'" in capsys.readouterr().err


def test_peft_itself_loads_the_exported_adapter_as_it_was_trained(
    lora_run: RunLayout, workspace: Path
) -> None:
    def base() -> Phi3V:
        return load_model(workspace / "models/tiny", dtype=torch.float32, attention="sdpa").eval()

    batch = collate(
        [Sample(input_ids=torch.arange(1, 9), labels=torch.tensor([-100] * 7 + [8]), pictures=())]
    )
    ours = load_trained(locate(lora_run.export / "adapter"), dtype=torch.float32, attention="sdpa").eval()
    theirs = PeftModel.from_pretrained(base(), str(lora_run.export / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs.logits(batch), ours.logits(batch), rtol=0, atol=0)
        assert not torch.allclose(base().logits(batch), ours.logits(batch), atol=1e-3)


def test_the_card_says_what_was_trained_on_what_and_how_well(lora_run: RunLayout) -> None:
    metrics = json.loads((lora_run.incarnation(1).evaluation(4) / "metrics.json").read_text())
    front, text = card(lora_run.export / "merged")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == metrics["value"]
    assert result["metrics"][0]["type"] == front["metrics"][0] == "exactMatch"
    assert f"| {metrics['value']:.4f} | {metrics['low']:.4f} to {metrics['high']:.4f} |" in text
    for row in ("| samples | 24 |", "| LoRA rank | 4 |", "| seed | 0 |", "| torch | "):
        assert row in text
    assert "eval.jsonl" in text
    assert str(lora_run.volume) not in (lora_run.export / "merged" / "README.md").read_text()
    assert front["library_name"] == "transformers"
    assert card(lora_run.export / "adapter")[0]["library_name"] == "peft"


def test_the_same_command_again_changes_nothing_and_another_export_is_not_replaced(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace / "out"
    assert phitune("export", lora_run.path, "--to", out) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert phitune("export", lora_run.path, "--to", out) == 0
    assert "is there already, and is this export" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    other = lora_run.incarnation(1).checkpoint(2)
    assert phitune("export", other, "--to", out) == 2
    assert (
        "holds another export; choose another folder, or replace it with --force" in capsys.readouterr().err
    )
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    kept = weights(out)
    assert phitune("export", other, "--to", out, "--force") == 0
    assert weights(out) != kept
    (workspace / "mine").mkdir()
    (workspace / "mine" / "notes.txt").write_text("of the user")
    assert phitune("export", other, "--to", workspace / "mine", "--force") == 2
    assert "holds something that is no export, so it is not replaced" in capsys.readouterr().err
    assert [path.name for path in (workspace / "mine").iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint_is_passed_over_and_named(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with next(lora_run.incarnation(1).checkpoint(4).glob("state-*")).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"hurt")
    out = workspace / "out"
    assert phitune("export", lora_run.path, "--to", out) == 0
    assert "damaged and not used: " in capsys.readouterr().err
    assert "2 steps" in card(out)[1]
    assert phitune("export", lora_run.incarnation(1).checkpoint(4), "--to", workspace / "no") == 2
    assert "choose another checkpoint of this run" in capsys.readouterr().err
    assert not (workspace / "no").exists()


def test_stopped_in_the_middle_it_leaves_nothing_and_what_was_there(
    lora_run: RunLayout, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = workspace / "exports" / "out"
    assert phitune("export", lora_run.incarnation(1).checkpoint(2), "--to", out) == 0
    before = weights(out)

    def stop(*_: object) -> None:
        assert [path for path in out.parent.iterdir() if path != out], "the half of it is aside"
        raise KeyboardInterrupt

    monkeypatch.setattr("phitune_trainer.model.save.copy_companions", stop)
    assert phitune("export", lora_run.path, "--to", out, "--force") == 130
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert weights(out) == before


def test_whole_weights_of_a_full_run_are_a_base_model_for_another_job(
    workspace: Path, make_config: Callable[..., TrainConfig], in_ranks: Any
) -> None:
    first = finished(make_config(training={"maxSteps": 2}, export={"merged": True}), in_ranks)
    out = workspace / "models" / "first"
    assert phitune("export", first.path, "--to", out) == 0
    assert weights(out) == weights(first.export / "merged")

    second = make_config(
        **LORA,
        run={"name": "second"},
        model={"path": "models/first"},
        training={"maxSteps": 2},
        data={"eval": "eval.jsonl"},
        evaluation={"enabled": True, "baseline": True},
        export=BOTH,
    )
    said: list[str] = []
    prepare(second, said.append)
    assert any("models/first is complete" in line for line in said)
    assert not any("crops" in line for line in said)
    prepare(make_config(model={"path": "models/first"}, training={"numCrops": 2}), said.append)
    assert said.count("model: it was trained with numCrops 1, and training.numCrops of this job is 2")
    layout = finished(second, in_ranks)
    assert phitune("evaluate", layout.export / "merged") == 0
    assert "the model in models/first on the run's volume" in card(layout.export / "merged")[1]
    assert weights(layout.export / "merged") != weights(out)


def test_an_adapter_is_no_base_model_and_it_is_said_what_to_do(
    lora_run: RunLayout, workspace: Path, make_config: Callable[..., TrainConfig]
) -> None:
    shutil.copytree(lora_run.export / "adapter", workspace / "models" / "adapter")
    with pytest.raises(ModelFilesError, match=r"is an adapter, .* merge it first: phitune export .*/adapter"):
        prepare(make_config(model={"path": "models/adapter"}), lambda _: None)


def test_a_moved_adapter_is_merged_into_the_base_that_is_named_and_unknown_facts_stay_unknown(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, out = shutil.copytree(lora_run.export / "adapter", workspace / "moved"), workspace / "out"
    assert phitune("export", moved, "--to", out) == 2
    assert "name that one too (--base)" in capsys.readouterr().err
    assert phitune("export", moved, "--base", workspace / "models/tiny", "--to", out) == 0
    assert weights(out) == weights(lora_run.export / "merged")
    front, text = card(out)
    assert "model-index" not in front
    assert "base_model" not in front
    assert "Not known: these weights were not scored" in text
    assert "| LoRA rank | 4 |" in text
    assert "| crops of a picture, at most | 1 |" in text


@pytest.mark.slow
def test_adapters_beside_four_bits_are_merged_into_what_the_four_bits_stood_for(
    workspace: Path, make_config: Callable[..., TrainConfig], in_ranks: Any
) -> None:
    config = make_config(**{**LORA, "method": "qlora"}, training={"maxSteps": 2}, export=BOTH)
    layout = finished(config, in_ranks)
    for number, source in enumerate((layout.path, layout.export / "adapter")):
        assert phitune("export", source, "--to", workspace / f"out-{number}") == 0
        assert weights(workspace / f"out-{number}") == weights(layout.export / "merged")


def test_half_precision_of_the_run_is_that_of_its_exports(
    workspace: Path, make_config: Callable[..., TrainConfig], in_ranks: Any
) -> None:
    config = make_config(training={"maxSteps": 1, "precision": "bf16"}, export={"merged": True})
    layout = finished(config, in_ranks)
    assert phitune("export", layout.path, "--to", workspace / "out") == 0
    assert weights(workspace / "out") == weights(layout.export / "merged")
    assert json.loads((workspace / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["nothing", "--to", "out"], "nothing: no such folder", id="no folder"),
        pytest.param(["models/tiny", "--to", "out"], "is whole weights already; copy", id="a base model"),
        pytest.param(["models/tiny"], "is whole weights already; push it with --push-to", id="nothing to do"),
        pytest.param(["models/tiny", "--adapter", "--to", "o"], "no adapter is left", id="no adapter"),
        pytest.param(["models/tiny", "--private"], "--private: goes with --push-to", id="private"),
        pytest.param(["a", "--revision", "b"], "--revision b: goes with --push-to", id="revision"),
    ],
)
def test_what_cannot_be_exported_is_said_with_what_to_do(
    arguments: list[str],
    words: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workspace)
    assert phitune("export", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("phitune export: ")
    assert words in captured.err
    assert captured.out == ""
    assert not (workspace / "out").exists()


def test_a_disk_that_is_too_small_or_not_writable_is_named(
    lora_run: RunLayout, workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "file").write_text("no folder")
    assert phitune("export", lora_run.path, "--to", "file/out") == 2
    assert "phitune export: file: File exists; choose another path" in capsys.readouterr().err
    usage = shutil.disk_usage(workspace)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    assert phitune("export", lora_run.path, "--to", "out") == 2
    assert "out: needs 3.1 MB, and 1.0 kB are free; choose another disk" in capsys.readouterr().err
    assert not (workspace / "out").exists()
