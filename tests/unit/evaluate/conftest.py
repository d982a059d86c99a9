"""Builders of these tests: a tiny model and questions of text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from phitune_trainer.data import Processor, Sample
from phitune_trainer.data.errors import DataError
from phitune_trainer.evaluate.evaluation import HeldOut
from phitune_trainer.model import Phi3V, load_model
from phitune_trainer.model.inputs import IGNORED

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def processor(base_model: Path) -> Processor:
    return Processor.load(base_model, 1)


@pytest.fixture(scope="session")
def model(base_model: Path) -> Phi3V:
    return load_model(base_model, dtype=torch.float32, attention="sdpa")


@dataclass(frozen=True)
class TextQuestions:
    """Questions without pictures: sample n asks about n words, and accepts one answer."""

    processor: Processor
    size: int
    file: str = "eval.jsonl"
    broken: int | None = None
    """A sample that cannot be read."""
    num_skipped: int = 0
    asking: str = "Is it?"

    def __len__(self) -> int:
        return self.size

    def prompt(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{self.where(index)}: picture 'x.png': not found")
        text = "<|user|>\n" + "word " * index + "<|end|>\n<|assistant|>\n"
        ids = torch.tensor(self.processor.tokenizer.encode(text, begin=True))
        return Sample(input_ids=ids, labels=torch.full_like(ids, IGNORED), where=self.where(index))

    def question(self, index: int) -> str:
        return self.asking

    def answers(self, index: int) -> tuple[str, ...]:
        return ("yes" if index % 2 else "no",)

    def where(self, index: int) -> str:
        return f"{self.file}:{index + 1}"

    def group(self, index: int) -> str:
        return f"statement {index // 2}"

    def pictures(self, index: int) -> tuple[str, ...]:
        return ()


@pytest.fixture
def held_out(processor: Processor) -> Callable[..., HeldOut]:
    def build(
        size: int, *, broken: int | None = None, file: str = "eval.jsonl", asking: str = "Is it?", **more: Any
    ) -> HeldOut:
        questions = TextQuestions(processor, size, file, broken, asking=asking)
        fields = {"num_samples": size, "batch_size": 2, "metric": "exactMatch", **more}
        return HeldOut(questions=questions, processor=processor, **fields)

    return build
