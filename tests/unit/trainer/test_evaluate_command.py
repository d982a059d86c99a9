"""`phitune evaluate` and `phitune predict`: what a run left, scored and asked by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.finished_runs import finished
from harness.parquet_data import CAULDRON, DOCVQA_1200, cauldron_row, docvqa_row, encoded, write_parquet
from phitune_cli.main import main
from phitune_trainer.load_trained import load_trained, locate

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "vision": False}}
SCORED: dict[str, Any] = {
    "data": {"eval": "eval.jsonl"},
    "evaluation": {"enabled": True, "baseline": True},
    "training": {"maxSteps": 6, "microBatchSize": 12, "learningRate": 5e-3},
}


def phitune(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def read(folder: Path, name: str = "metrics.json") -> Any:
    text = (folder / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


def test_adapter_merged_weights_and_checkpoint_of_a_lora_run_score_what_the_run_scored(
    workspace: Path, make_config: Any, in_ranks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = finished(make_config(**LORA, **SCORED, export={"merged": True, "adapter": True}), in_ranks)
    start, end = (layout.incarnation(1).evaluation(step) for step in (0, 6))
    assert read(start, "predictions.jsonl") != read(end, "predictions.jsonl")
    checkpoint = layout.incarnation(1).checkpoint(6)
    for number, folder in enumerate((layout.export / "adapter", layout.export / "merged", checkpoint)):
        out = workspace / f"out-{number}"
        assert phitune("evaluate", folder, "--out", out) == 0
        assert read(out, "predictions.jsonl") == read(end, "predictions.jsonl")
        for name in ("metric", "value", "low", "high", "samples"):
            assert read(out)[name] == read(end)[name]
        assert f"exactMatch      {read(end)['value']:.4f} (" in capsys.readouterr().out

    moved = shutil.copytree(layout.export / "adapter", workspace / "elsewhere")
    named = ["--task", "jsonl", "--data", workspace / "data/colors/eval.jsonl", "--num-crops", 1]
    assert phitune("evaluate", moved, *named) == 2
    assert "does not say where its base model lies; name that one too (--base)" in capsys.readouterr().err
    out = workspace / "out-moved"
    assert phitune("evaluate", moved, *named, "--base", workspace / "models/tiny", "--out", out) == 0
    assert [row["prediction"] for row in read(out, "predictions.jsonl")] == [
        row["prediction"] for row in read(end, "predictions.jsonl")
    ]

    settings = read(moved, "adapter_config.json")
    (moved / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 40}))
    capsys.readouterr()
    assert phitune("evaluate", moved, *named, "--base", workspace / "models/tiny", "--out", out) == 0
    assert "were answered before" not in capsys.readouterr().err

    capsys.readouterr()
    beside = ["--against", workspace / "models/tiny", "--out", workspace / "both"]
    assert phitune("evaluate", layout.export / "merged", *beside) == 0
    printed = capsys.readouterr().out
    difference = read(workspace / "both", "comparison.json")["differences"]["exactMatch"]
    assert difference["value"] == pytest.approx(read(end)["value"] - read(end)["baseline"])
    assert f"{difference['value']:+.4f}" in printed
    assert (
        len(read(workspace / "both", "changed.jsonl"))
        == read(workspace / "both", "comparison.json")["changed"]
    )
    assert phitune("evaluate", end, "--against", start) == 0
    assert capsys.readouterr().out.splitlines()[2:] == printed.splitlines()[2:]

    question = ["--image", workspace / "data/colors/images/1.png", "--prompt", "What is shown?"]
    assert phitune("predict", "--model", layout.export / "merged", *question) == 0
    by_merged = capsys.readouterr().out
    assert by_merged.strip() == read(end, "predictions.jsonl")[1]["prediction"]
    assert phitune("predict", "--model", layout.export / "merged", *question, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"answer": by_merged.strip()}
    with_adapter = ["--model", workspace / "models/tiny", "--adapter", layout.export / "adapter"]
    assert phitune("predict", *with_adapter, *question) == 0
    assert capsys.readouterr().out == by_merged

    (checkpoint / "trainer.json").write_text("{}")
    assert phitune("evaluate", checkpoint) == 2
    assert "choose another checkpoint of this run" in capsys.readouterr().err


@pytest.mark.slow
def test_what_qlora_trained_is_scored_on_the_base_quantised_as_in_training(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    config = make_config(**{**LORA, "method": "qlora"}, **SCORED, export={"adapter": True})
    layout = finished(config, in_ranks)
    end = layout.incarnation(1).evaluation(6)
    for number, folder in enumerate((layout.export / "adapter", layout.incarnation(1).checkpoint(6))):
        out = workspace / f"out-{number}"
        assert phitune("evaluate", folder, "--out", out) == 0
        assert read(out, "predictions.jsonl") == read(end, "predictions.jsonl")
        model = load_trained(locate(folder), dtype=torch.float32, attention="sdpa").to("cpu")
        kinds = {type(module).__name__ for module in model.model.layers[0].self_attn.qkv_proj.modules()}
        assert "Linear4bit" in kinds


def test_a_checkpoint_of_a_full_run_scores_what_the_run_scored(
    workspace: Path, make_config: Any, in_ranks: Any
) -> None:
    layout = finished(make_config(**SCORED), in_ranks)
    assert phitune("evaluate", layout.incarnation(1).checkpoint(6), "--out", workspace / "out") == 0
    end = layout.incarnation(1).evaluation(6)
    assert read(workspace / "out", "predictions.jsonl") == read(end, "predictions.jsonl")


def pages(*names: str) -> list[dict[str, Any]]:
    return [docvqa_row(f"What is {name}?", name, image=encoded(grey=10 * len(name))) for name in names]


def pairs(*answers: str) -> list[dict[str, Any]]:
    two, statements = [encoded(), encoded(grey=9)], ("both are grey", "one is red")
    return [
        cauldron_row((f'Is "{statements[number % 2]}" true?', answer), images=two)
        for number, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("task", "file", "schema", "rows", "metric", "detail"),
    [
        pytest.param(
            "docvqa", "data/test-0.parquet", DOCVQA_1200, pages("12", "abc", "x"), "anls", "anlsStandard"
        ),
        pytest.param(
            "nlvr2",
            "nlvr2/train-0.parquet",
            CAULDRON,
            pairs("Yes.", "No.", "Yes."),
            "accuracy",
            "consistency",
        ),
        pytest.param(
            "hatefulMemes",
            "hateful_memes/train-0.parquet",
            CAULDRON,
            [cauldron_row(("Hateful?", answer)) for answer in ("Yes.", "No.", "No.")],
            "accuracy",
            "auroc",
        ),
    ],
)
def test_each_task_of_the_recipe_is_scored_by_its_own_metrics(
    task: str, file: str, schema: Any, rows: Any, metric: str, detail: str, workspace: Path
) -> None:
    write_parquet(workspace / "parquet" / file, schema, rows)
    named = ["--task", task, "--data", workspace / "parquet", "--num-crops", 1, "--out", workspace / "out"]
    assert phitune("evaluate", workspace / "models/tiny", *named) == 0
    metrics = read(workspace / "out")
    assert (metrics["metric"], metrics["samples"], metrics["notes"]) == (metric, 3, [])
    assert metrics["units"] == (2 if task == "nlvr2" else 3)
    assert list(metrics["details"]) == [detail]
    for found in (metrics, metrics["details"][detail]):
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    for row in read(workspace / "out", "predictions.jsonl"):
        assert ("choiceLogProbabilities" in row) is (detail == "auroc")


@pytest.fixture
def on_the_base(workspace: Path) -> list[object]:
    """Options that score the base model on the five held-out samples."""
    return [workspace / "models/tiny", "--data", workspace / "data/colors", "--num-crops", 1]


def test_a_stopped_evaluation_is_kept_and_goes_on_but_not_with_other_weights(
    workspace: Path,
    on_the_base: list[object],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from phitune_trainer.evaluate import evaluation

    out = workspace / "out"
    command = ["evaluate", *on_the_base, "--batch-size", 2, "--out", out]
    answer, calls = evaluation._answer, iter(range(100))

    def interrupted(*args: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return answer(*args)

    monkeypatch.setattr(evaluation, "_answer", interrupted)
    assert phitune(*command) == 75
    assert f"what is answered is kept in {out}" in capsys.readouterr().err
    assert phitune(*command) == 0
    assert "2 of 5 samples were answered before" in capsys.readouterr().err
    assert phitune(*command) == 0
    assert "5 of 5 samples were answered before" in capsys.readouterr().err
    assert phitune("evaluate", *on_the_base, "--precision", "bf16", "--out", out) == 0
    assert "were answered before" not in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_damaged_files_of_an_earlier_evaluation_are_no_answers(
    workspace: Path, on_the_base: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace / "out"
    command = ["evaluate", *on_the_base, "--out", out]
    assert phitune(*command) == 0
    whole = read(out, "predictions.jsonl")
    for name, content in (
        ("metrics.json", '{"metr'),
        ("metrics.json", "[]"),
        ("predictions.jsonl", ""),
        ("predictions.jsonl", "[1]\n"),
        ("predictions.jsonl", None),
    ):
        capsys.readouterr()
        if content is None:
            (out / name).unlink()
        else:
            (out / name).write_text(content)
        assert phitune(*command) == 0
        assert "were answered before" not in capsys.readouterr().err
        assert read(out, "predictions.jsonl") == whole


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.json", '{"metr', "metrics.json: damaged: its metric is None"),
        ("metrics.json", '{"metric": "foo"}', "its metric is foo, not one of "),
        ("predictions.jsonl", "", "predictions.jsonl: is empty"),
        ("predictions.jsonl", "[1]\n", "predictions.jsonl: damaged (a map was expected, got list)"),
        ("predictions.jsonl", '{"sample": "a"}\n', "predictions.jsonl: damaged ('prediction')"),
    ],
)
def test_a_damaged_evaluation_is_named(
    name: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"sample": "a", "question": "?", "prediction": "b", "answers": ["b"], "score": 1.0}
    (tmp_path / "metrics.json").write_text('{"metric": "exactMatch"}')
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    assert phitune("evaluate", tmp_path) == 0
    (tmp_path / name).write_text(content)
    assert phitune("evaluate", tmp_path) == 2
    assert words in capsys.readouterr().err


PREDICT = ["predict", "--model", "models/tiny"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["evaluate", "nowhere"], "nowhere: no such folder", id="no folder"),
        pytest.param(["evaluate", "data/colors"], "expected a model (config.json and", id="not a model"),
        pytest.param(["evaluate", "models/tiny"], "name them with --task and --data", id="no samples"),
        pytest.param(
            ["evaluate", "models/tiny", "--data", "nowhere"], "--data nowhere: no such file", id="no data"
        ),
        pytest.param(
            ["evaluate", "models/tiny", "--task", "docvqa", "--data", "data/colors/eval.jsonl"],
            "needs the folder of its files",
            id="a file for a task of several",
        ),
        pytest.param(
            ["evaluate", "models/tiny", "--data", "data/colors/images"],
            "eval.jsonl: cannot be read",
            id="no jsonl",
        ),
        pytest.param(
            ["evaluate", "models/tiny", "--data", "data/colors/eval.jsonl", "--split", "train.jsonl"],
            "--split train.jsonl: task jsonl has no splits",
            id="a split of one file",
        ),
        pytest.param(
            ["evaluate", "models/tiny", "--task", "docvqa", "--data", "data/colors", "--images", "x"],
            "--images x: goes with --task jsonl",
            id="pictures of a task that has its own",
        ),
        pytest.param(
            ["evaluate", "models/tiny", "--against", "models/tiny", "--data", "data/colors"],
            "--against models/tiny: is FOLDER itself",
            id="compared with itself",
        ),
        pytest.param(["predict", "--model", "nowhere", "--prompt", "a"], "no such folder", id="predict"),
        pytest.param(
            ["predict", "--model", "models/tiny", "--prompt", "a", "--image", "x.png"],
            "--image x.png: no such file",
            id="no picture",
        ),
        pytest.param(
            ["predict", "--model", "models/tiny", "--prompt", "a", "--image", "data/colors/eval.jsonl"],
            "eval.jsonl",
            id="not a picture",
        ),
        pytest.param(
            ["predict", "--model", "models/tiny", "--prompt", " "], "say what is asked", id="no prompt"
        ),
        pytest.param(
            ["predict", "--model", "models/tiny", "--prompt", "<|end|>"], "<|end|>", id="a special token"
        ),
        *(
            pytest.param(
                [*PREDICT, "--image", "data/colors/images/1.png", "--prompt", f"{name}\nwhat"],
                f"--prompt: has '{name}'; remove it",
                id=f"a placeholder of {what}",
            )
            for name, what in (
                ("<|image_1|>", "the picture"),
                ("<|image_5|>", "no picture"),
                ("<|image_0|>", "nothing"),
            )
        ),
        pytest.param(
            ["predict", "--model", "models/tiny", "--adapter", "models/tiny", "--prompt", "a"],
            "is a model; name it with --model alone",
            id="not an adapter",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_what_was_expected(
    arguments: list[str],
    words: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workspace)
    assert phitune(*arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith(f"phitune {arguments[0]}: ")
    assert captured.out == ""


def test_the_folder_of_a_run_names_what_is_in_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = workspace / "runs/tests/colors/00000001"
    (run / "export/merged").mkdir(parents=True)
    (run / "incarnations/0001/checkpoints/step-00000004").mkdir(parents=True)
    for folder in (run, run / "export"):
        assert phitune("evaluate", folder) == 2
        said = capsys.readouterr().err
        assert "is the folder of a run; name one of: " in said
        assert str(run / "export/merged") in said
        assert "step-00000004" in said


def test_an_adapter_for_another_model_is_refused(
    workspace: Path, on_the_base: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = workspace / "adapter"
    adapter.mkdir()
    settings: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    command = ["predict", "--model", on_the_base[0], "--adapter", adapter, "--prompt", "a"]
    assert phitune(*command) == 2
    assert "adapter_model.safetensors: not found" in capsys.readouterr().err
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 77)}, adapter / "adapter_model.safetensors")
    assert phitune(*command) == 2
    said = capsys.readouterr().err
    assert "4 differ, such as base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight" in said
    assert "[2, 77] in the file, [2, 128] expected" in said
