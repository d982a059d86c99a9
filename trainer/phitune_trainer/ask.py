"""One question about some pictures, answered: what `phitune predict` does."""

from collections.abc import Sequence
from pathlib import Path

import torch

from phitune_trainer.data import DataError, Processor, Sample
from phitune_trainer.data.conversation import Conversation, Turn
from phitune_trainer.model import Phi3V, generate
from phitune_trainer.model.inputs import IGNORED


def answer(model: Phi3V, processor: Processor, question: Sample, *, max_new_tokens: int) -> str:
    """The most likely answer to what `encode_question` made."""
    eos_ids = processor.tokenizer.eos_ids
    tokens = generate(model, [question], max_new_tokens=max_new_tokens, eos_ids=eos_ids)
    return processor.decode(tokens[0])


def encode_question(processor: Processor, prompt: str, pictures: Sequence[Path]) -> Sample:
    """The prompt with the pictures before it, up to where the answer begins. Raises DataError."""
    if (problem := next(processor.special_tokens_of(prompt), None)) is not None:
        raise DataError(f"--prompt: {problem}")
    turn = Turn(images=tuple(str(path) for path in pictures), user=prompt, assistant="")
    loaded = tuple(processor.load_picture(path) for path in pictures)
    counts = [processor.picture_tokens(picture) for picture in loaded]
    ids, _ = processor.tokenize(Conversation((turn,)), counts, prompt_only=True)
    return Sample(
        input_ids=torch.tensor(ids),
        labels=torch.full((len(ids),), IGNORED),
        pictures=loaded,
        where="--prompt",
    )
