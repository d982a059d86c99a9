"""The golden check on cases of other forms than the published ones, made by an independent model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from golden.check import check_folder, reduced_model
from harness.reference_model import ReferenceModel, make_case
from harness.tiny_models import published_folder
from phitune_trainer.data import Processor

CASES: dict[str, dict[str, Any]] = {
    "several turns and no picture": {
        "prompt": "<|user|>\nHi.<|end|>\n<|assistant|>\nHey!<|end|>\n<|user|>\nYou?<|end|>\n<|assistant|>\n",
        "answer": "I, a model.\nTwo lines<|end|>\n<|endoftext|>",
        "num_crops": 4,
        "images": [],
    },
    "one crop of a picture of a few pixels": {
        "prompt": "<|user|>\n<|image_1|>\nWhat?<|end|>\n<|assistant|>\n",
        "answer": "x<|end|>\n<|endoftext|>",
        "num_crops": 1,
        "images": [[1, 5, 3]],
    },
    "wide and tall and square in two turns": {
        "prompt": "<|user|>\nSee <|image_1|>and <|image_2|><|end|>\n<|assistant|>\nYes<|end|>\n"
        "<|user|>\n<|image_3|>\nIs it\u00e9 \u6587 the same?<|end|>\n<|assistant|>\n",
        "answer": "no<|end|>\n",
        "num_crops": 5,
        "images": [[2, 900, 120], [3, 60, 500], [4, 300, 300]],
    },
    "more than 4096 tokens": {
        "prompt": f"<|user|>\n<|image_1|>\n{'Compare. ' * 1500}<|end|>\n<|assistant|>\n",
        "answer": "They differ.<|end|>\n<|endoftext|>",
        "num_crops": 2,
        "images": [[5, 500, 380]],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    published = published_folder()
    made = tmp_path_factory.mktemp("cases")
    torch.manual_seed(0)
    model = ReferenceModel(published)
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    for name, inputs in CASES.items():
        (made / f"{name}.json").write_text(json.dumps(make_case(model, tokenizer, **inputs)))
    return made


def test_cases_of_other_forms_hold_too(folder: Path) -> None:
    published = published_folder()
    lines: list[str] = []
    passed = check_folder(
        folder, reduced_model(published), Processor.load(published, num_crops=16), lines.append
    )
    assert passed, "\n".join(lines)
    assert len(lines) == len(CASES)


def test_one_case_is_on_the_long_side_of_the_border(folder: Path) -> None:
    case = json.loads((folder / "more than 4096 tokens.json").read_text())
    assert sum(count for _, count in case["input_ids_run_length"]) > 4096
