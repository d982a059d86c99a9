"""The model and the processor against the published implementation, and the check itself.

The two large cases take half a minute; they run with the whole command in the integration tests.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from golden.check import check_folder, reduced_model
from harness.tiny_models import published_folder
from phitune_trainer.data import Processor
from phitune_trainer.model import Phi3V

torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = GOLDEN / "phi35-vision"

Check = Callable[[Path], tuple[bool, list[str]]]


@pytest.fixture(scope="module")
def reduced() -> tuple[Phi3V, Processor]:
    folder = published_folder()
    return reduced_model(folder), Processor.load(folder, num_crops=16)


@pytest.fixture
def check(reduced: tuple[Phi3V, Processor]) -> Check:
    def run(folder: Path) -> tuple[bool, list[str]]:
        lines: list[str] = []
        return check_folder(folder, *reduced, lines.append), lines

    return run


@pytest.mark.parametrize(
    "name", ["text-only", "single-image-crops4", pytest.param("two-images", marks=pytest.mark.slow)]
)
def test_a_golden_case_holds(name: str, tmp_path: Path, check: Check) -> None:
    (tmp_path / "case.json").write_bytes((CASES / f"{name}.json").read_bytes())
    passed, lines = check(tmp_path)
    assert passed, lines
    assert lines[0].startswith("ok   case: ids 0, ")


def test_a_case_with_other_numbers_fails_and_says_which(tmp_path: Path, check: Check) -> None:
    case = json.loads((CASES / "text-only.json").read_text())
    case["loss"] += 2e-4
    case["grad_norm"]["lm_head.weight"] *= 1.002
    (tmp_path / "altered.json").write_text(json.dumps(case))
    passed, lines = check(tmp_path)
    assert not passed
    assert lines[0].endswith("(beyond: loss, grad_norms)")


def edited(**changes: object) -> str:
    case = json.loads((CASES / "text-only.json").read_text())
    return json.dumps({key: value for key, value in {**case, **changes}.items() if value != "left out"})


def test_cases_that_cannot_run_fail_and_the_others_still_run(tmp_path: Path, check: Check) -> None:
    wrong = {
        "a list": ("[]", "a case is a JSON object, not list"),
        "answer only": (edited(answer_tokens=18), "answer_tokens is 18, of 18 tokens"),
        "no json": ("{", "Expecting property name"),
        "no keys": (edited(loss="left out", answer=None), "it has no answer, loss"),
        "no pixels": (
            edited(images=[[1, 40, 30]]),
            "it has no image_sizes, pixel_values_shape, pixel_samples",
        ),
        "too few": (edited(logits_logsumexp=[10.6]), r"shape \[1\] for \[7\]"),
    }
    for name, (text, _) in wrong.items():
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "text-only.json").write_text(edited(all_logsumexp_mean="left out"))
    passed, lines = check(tmp_path)
    assert not passed
    assert len(lines) == len(wrong) + 1
    for line, (name, (_, reason)) in zip(lines, wrong.items(), strict=False):
        assert re.match(rf"FAIL {name}: could not run: \w+: .*{reason}", line), line
    assert lines[-1].startswith("ok   whole/text-only: ids 0, image_sizes 0, pixels 0, ")


def test_what_only_one_side_has_is_a_deviation(tmp_path: Path, check: Check) -> None:
    case = edited(num_img_tokens=[1], loss=float("nan"), grad_norm={"lm_head.weight": 1.0})
    (tmp_path / "case.json").write_text(case)
    passed, lines = check(tmp_path)
    assert not passed
    assert lines[0].endswith("(beyond: ids, loss, grad_norms)")


def test_a_folder_without_a_case_fails(tmp_path: Path, check: Check) -> None:
    passed, lines = check(tmp_path)
    assert not passed
    assert "no case" in lines[0]


@pytest.mark.slow
def test_a_missing_tokenizer_fails_and_says_how_to_name_one(tmp_path: Path) -> None:
    command = [sys.executable, GOLDEN / "check.py", CASES]
    done = subprocess.run(command, env={"PHITUNE_TOKENIZER": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "set PHITUNE_TOKENIZER" in done.stdout
    assert not done.stderr
