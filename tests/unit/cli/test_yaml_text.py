"""What `submit --set` reads, and what `submit --dry-run` and `render` print, is what kubectl takes it for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from harness.documents import job
from harness.fuzz import A_FEW_AND_MANY, holds
from phitune_cli.finetune.main import main as plugin
from phitune_cli.main import main
from phitune_cli.yaml_text import to_documents, to_yaml
from phitune_trainer.yaml_reader import read_document, read_documents

Printed = Callable[..., str]

SUBMIT = ["submit", "receipts", "--task", "jsonl", "--data", "receipts", "--method", "lora", "--claim", "big"]
LOOK_LIKE_OTHERS = ["4e-5", "12e5", "0008", "0o7", "0x1F", "1_000", "+1", "1:30", "2024-01-01", ".inf", "y"]
LOOK_LIKE_OTHERS += ["No", "null", "~", "", "<<", "=", "-", "?", "!a", "&a", "*a", "{", "a: b", "# a", "---"]
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text("0123456789eE+-._:xo#'\"|>~ \n\t", max_size=10)
    | st.text("ab \n\t\x85\u2028", max_size=200)
    | st.sampled_from(LOOK_LIKE_OTHERS)
)
VALUES = st.recursive(
    TEXTS | st.floats(allow_nan=False) | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@A_FEW_AND_MANY
def test_any_value_is_read_again_as_it_was_and_does_nothing_to_a_terminal(num_examples: int) -> None:
    def is_read_again(value: Any) -> None:
        one, two = to_yaml(value), to_documents([value, value])
        assert read_document(one) == value
        assert [document.value for document in read_documents(two)] == [value, value]
        assert (one + two).isascii()
        assert "\x1b" not in one + two

    holds(num_examples, st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), is_read_again)


@pytest.fixture
def submitted(capsys: pytest.CaptureFixture[str]) -> Printed:
    """What `submit --dry-run` prints, with these settings."""

    def submitted(*settings: str, output: str = "yaml") -> str:
        options = [word for setting in settings for word in ("--set", setting)]
        assert plugin([*SUBMIT, *options, "--dry-run", "-o", output]) == 0
        return capsys.readouterr().out

    return submitted


@pytest.mark.parametrize("value", ["4e-5", "0.00004", "4.0e-05", "+.4e-4"])
def test_a_setting_is_a_number_however_it_is_written(value: str, submitted: Printed) -> None:
    spec = json.loads(submitted(f"training.learningRate={value}", output="json"))["spec"]
    assert spec["training"] == {"learningRate": 4e-5}


def test_a_setting_is_no_date(submitted: Printed) -> None:
    data = json.loads(submitted("data.path=2024-01-01", output="json"))["spec"]["data"]
    assert data == {"path": "2024-01-01"}


def test_a_text_in_quotes_stays_one_in_the_manifest(submitted: Printed) -> None:
    model = {"name": "a/b", "revision": "12e5"}
    manifest = submitted('model={name: a/b, revision: "12e5"}')
    assert "revision: '12e5'" in manifest
    read = read_document(manifest)
    assert isinstance(read, dict)
    assert read["spec"]["model"] == model


def test_a_setting_that_is_no_yaml_for_kubectl_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plugin([*SUBMIT, "--set", "model={name: a/b, name: c/d}"])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "argument --set: model: '{name: a/b, name: c/d}' is no YAML: line 1, column 13: " in said
    assert 'key "name" is given twice' in said


@pytest.mark.parametrize("text", [*LOOK_LIKE_OTHERS, "a\nb\n", " a", "\u202eä\x9b"])
def test_manifests_hold_the_texts_of_a_job_as_they_were_given(
    text: str, submitted: Printed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = json.dumps([{"name": "A", "value": text}])
    read = read_document(submitted(f"env={setting}"))
    assert isinstance(read, dict)
    assert read["spec"]["env"] == json.loads(setting)

    file = tmp_path / "job.json"
    file.write_text(json.dumps(job({"env": json.loads(setting)})), encoding="utf-8")
    printed = []
    for output in ("json", "yaml"):
        assert main(["render", str(file), "-o", output]) == 0
        printed.append(capsys.readouterr().out)
    assert [document.value for document in read_documents(printed[1])] == json.loads(printed[0])["items"]


def test_manifest_is_the_same_for_whoever_reads_other_yaml(submitted: Printed) -> None:
    manifest = submitted("training.learningRate=4e-5", 'model={name: a/b, revision: "12e5"}')
    assert yaml.safe_load(manifest) == read_document(manifest)
