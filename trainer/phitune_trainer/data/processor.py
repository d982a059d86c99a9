"""Conversations to token ids and labels, pictures to bytes: what the published processor does, for training.

The prompt of a turn is `<|user|>\\n<|image_1|><|image_2|>\\n{user}<|end|>\\n<|assistant|>\\n`, its answer
`{assistant}<|end|>\\n`, and `<|endoftext|>` ends the conversation. Pictures are numbered over the whole
conversation. Answers and what ends them are trained, nothing else is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from phitune_trainer.data.conversation import Conversation, Turn
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.pictures import find_picture, grid_for, load_picture, read_size
from phitune_trainer.model import Sample
from phitune_trainer.model.inputs import IGNORED
from phitune_trainer.model.pixels import CLIP_MEAN, CLIP_STD
from phitune_trainer.model_config import ModelConfig, ModelFilesError, VisionConfig, read_json
from phitune_trainer.tokenizer import ASSISTANT, END, END_OF_TEXT, USER, TextTokenizer

_PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")
_MOST_FRAME_TOKENS = 32
"""More tokens than the frame of a turn has."""


@dataclass(frozen=True)
class Processor:
    """The text and picture processing of one model folder."""

    tokenizer: TextTokenizer
    vision: VisionConfig
    num_crops: int
    """Most crops of a picture, the global view not counted."""

    @classmethod
    def load(cls, folder: Path, num_crops: int) -> "Processor":
        """Read a model folder. Raises ModelFilesError that names the file."""
        path = folder / "preprocessor_config.json"
        settings = read_json(path)
        for key, expected in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
            if settings.get(key) != list(expected):
                raise ModelFilesError(f"{path}: {key} must be {list(expected)}, got {settings.get(key)}")
        return cls(TextTokenizer.load(folder), ModelConfig.from_folder(folder).vision, num_crops)

    def encode(self, conversation: Conversation, image_root: Path) -> Sample:
        """The whole conversation, every answer labelled. Raises DataError (without a place)."""
        return self._sample(conversation, image_root, prompt_only=False)

    def encode_prompt(self, conversation: Conversation, image_root: Path) -> Sample:
        """The conversation up to its last answer, for generation. Raises DataError (without a place)."""
        return self._sample(conversation, image_root, prompt_only=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens."""
        return self.tokenizer.decode(ids)

    def num_tokens(self, conversation: Conversation, image_root: Path) -> int:
        """Tokens of the whole conversation; pictures are not decoded. Raises DataError (without a place)."""
        sizes = [read_size(find_picture(name, image_root)) for name in conversation.images]
        ids, _ = self.tokenize(conversation, [self.picture_tokens_of_size(*size) for size in sizes])
        return len(ids)

    def count_tokens(self, conversation: Conversation, picture_tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens of the whole conversation, and how many of them are trained.

        What is done for `tokenize`, without making the ids. Raises DataError (without a place).
        """
        ids, labels = self.tokenize(conversation, picture_tokens)
        return len(ids), len(labels) - labels.count(IGNORED)

    def most_tokens(self, conversation: Conversation) -> int:
        """A bound that `num_tokens` never exceeds, from the text alone: no byte is more than one token."""
        per_picture = self.vision.image_tokens(self.num_crops, 1) + 1
        texts = sum(len(turn.user.encode()) + len(turn.assistant.encode()) for turn in conversation.turns)
        return texts + _MOST_FRAME_TOKENS * len(conversation.turns) + per_picture * len(conversation.images)

    def load_picture(self, source: Path | bytes) -> Tensor:
        """A picture file, or its content, as the model takes it: bytes (H, W, 3).

        Raises DataError (without a place).
        """
        return load_picture(source, num_crops=self.num_crops, crop_size=self.vision.image_size)

    def picture_tokens_of_size(self, width: int, height: int) -> int:
        """Tokens of a picture of so many pixels."""
        rows, columns = grid_for(width, height, num_crops=self.num_crops, crop_size=self.vision.image_size)
        return self.vision.image_tokens(rows, columns)

    def picture_tokens(self, picture: Tensor) -> int:
        """Tokens of a picture that `load_picture` returned."""
        height, width, _ = picture.shape
        return self.vision.image_tokens(height // self.vision.image_size, width // self.vision.image_size)

    def tokenize(
        self, conversation: Conversation, picture_tokens: Sequence[int], *, prompt_only: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids and labels, the number of tokens of each picture being known.

        Raises DataError (without a place) where a text holds a special token, which would end or forge a
        turn, or the placeholder of a picture, which would put it in twice or stand for none.
        """
        ids: list[int] = []
        labels: list[int] = []
        first_picture = 1
        self.refuse_special_tokens(conversation)
        for number, turn in enumerate(conversation.turns):
            is_last = number == len(conversation.turns) - 1
            prompt = self.tokenize_prompt(_prompt_of(turn, first_picture), picture_tokens, begin=number == 0)
            first_picture += len(turn.images)
            ids += prompt
            labels += [IGNORED] * len(prompt)
            if is_last and prompt_only:
                break
            end = f"{END}\n{END_OF_TEXT}" if is_last else f"{END}\n"
            answer = self.tokenizer.encode(turn.assistant + end, begin=False)
            ids += answer
            labels += answer
        return ids, labels

    def tokenize_prompt(self, prompt: str, picture_tokens: Sequence[int], *, begin: bool = True) -> list[int]:
        """Token ids of a prompt with `<|image_n|>` in it; -n in the place of picture n.

        As published, the text between two pictures is tokenised by itself, so `<s>` follows every picture.
        """
        ids: list[int] = []
        for number, part in enumerate(_PLACEHOLDER.split(prompt)):
            if number % 2:
                ids += [-int(part)] * picture_tokens[int(part) - 1]
            else:
                ids += self.tokenizer.encode(part, begin=begin or number > 0)
        return ids

    def refuse_special_tokens(self, conversation: Conversation) -> None:
        """Raise DataError (without a place) where a text holds a special token, which could forge a turn."""
        if (problem := next(self.special_tokens_in(conversation), None)) is not None:
            raise DataError(problem)

    def special_tokens_in(self, conversation: Conversation) -> Iterator[str]:
        """A sentence for each special token, or placeholder of a picture, that somebody typed."""
        for number, turn in enumerate(conversation.turns):
            yield from self.special_tokens_in_turn(turn, f"conversations[{number}]")

    def special_tokens_in_turn(self, turn: Turn, where: str) -> Iterator[str]:
        """The same of one turn; each sentence begins with `where`."""
        for key, text in (("user", turn.user), ("assistant", turn.assistant)):
            yield from (f"{where}.{key}: {what}" for what in self.special_tokens_of(text))

    def special_tokens_of(self, text: str) -> Iterator[str]:
        """What is to be said (without a place) of each special token or placeholder in a text."""
        for name in dict.fromkeys(found.group() for found in _PLACEHOLDER.finditer(text)):
            yield f"has {name!r}; remove it; pictures are put in front of the text by themselves"
        for name in self.tokenizer.special_ids:
            if name in text:
                yield f"has the special token {name!r}; spell it differently"

    def _sample(self, conversation: Conversation, image_root: Path, *, prompt_only: bool) -> Sample:
        pictures = tuple(self.load_picture(find_picture(name, image_root)) for name in conversation.images)
        counts = [self.picture_tokens(picture) for picture in pictures]
        ids, labels = self.tokenize(conversation, counts, prompt_only=prompt_only)
        return Sample(input_ids=torch.tensor(ids), labels=torch.tensor(labels), pictures=pictures)


def _prompt_of(turn: Turn, first_picture: int) -> str:
    numbers = range(first_picture, first_picture + len(turn.images))
    pictures = "".join(f"<|image_{number}|>" for number in numbers)
    line = f"{pictures}\n" if pictures else ""
    return f"{USER}\n{line}{turn.user}{END}\n{ASSISTANT}\n"
