"""Text to token ids, by the `tokenizer.json` of a model folder; and the small tokenizer of models made here.

Special tokens are looked up by name, so the published tokenizer and ours are used in the same way.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from phitune_trainer.model_config import ModelFilesError

ASSISTANT = "<|assistant|>"
END = "<|end|>"
END_OF_TEXT = "<|endoftext|>"
USER = "<|user|>"

_BEGIN = "<s>"
_UNKNOWN = "<unk>"
_SPACE = "▁"  # stands for a space, as in the published vocabulary

# Short texts are remembered, the first ones that come: among them what stands around every turn and picture.
_SHORT = 32  # characters
_MOST_SHORT = 4096

# Whether a special token swallows the white space to its right, as in the published tokenizer.
_SPECIAL_STRIPS_RIGHT = {
    _UNKNOWN: False,
    _BEGIN: False,
    "</s>": True,
    END_OF_TEXT: False,
    ASSISTANT: True,
    "<|system|>": False,
    END: False,
    USER: False,
    "<|image|>": True,
}

# Whole words of the small vocabulary; all other text is spelled by characters, or by bytes.
_WORDS = """
a an and answer are as at be briefly but by can class classify color day digit do does each first following
for from good has have how image in into is it item left letter many me name new no not number of on one or
page picture please right say see short show shown sign single some tell text that the there these they this
two video was way what when where which who why with word write year yes you your
"""

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


class TextTokenizer:
    """The tokenizer of a model folder."""

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = {token.content: number for number, token in added.items()}
        missing = [
            name for name in (_BEGIN, ASSISTANT, END, END_OF_TEXT, USER) if name not in self.special_ids
        ]
        if missing:
            raise ModelFilesError(
                f"{where}: not a tokenizer of Phi-3.5-vision: {', '.join(missing)} is missing"
            )
        self._tokenizer = tokenizer
        self._short: dict[tuple[str, bool], list[int]] = {}

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Read `tokenizer.json` of a model folder. Raises ModelFilesError that names the file."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelFilesError(f"{path}: not found; a model folder needs this file")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ModelFilesError(f"{path}: not a tokenizer file: {error}") from error
        return cls(tokenizer, str(path))

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return frozenset((self.special_ids[END], self.special_ids[END_OF_TEXT]))

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """Token ids of a piece of text, with `<s>` in front where `begin`."""
        if (known := self._short.get((text, begin))) is not None:
            return known.copy()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=begin).ids
        if len(text) <= _SHORT and len(self._short) < _MOST_SHORT:
            self._short[text, begin] = ids.copy()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens and without white space around it."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()


def build_tokenizer() -> Tokenizer:
    """A tokenizer of a few hundred tokens that takes any text, as the published one does."""
    vocabulary = [_UNKNOWN, _BEGIN, "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE]
    vocabulary += [chr(code) for code in range(ord("!"), ord("~") + 1)]
    lower = _WORDS.split()
    merges = _merges_of([*lower, *(word.capitalize() for word in lower), *"0123456789"])
    vocabulary += [left + right for left, right in merges]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(content, rstrip=strips, normalized=False, special=True)
            for content, strips in _SPECIAL_STRIPS_RIGHT.items()
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN} $B", special_tokens=[(_BEGIN, ids[_BEGIN])]
    )
    return tokenizer


def _merges_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that join each word from the left, one character at a time: every prefix becomes a token too."""
    merges: dict[tuple[str, str], None] = {}  # keeps the order, drops what two words share
    for word in words:
        for end, character in enumerate(word):
            merges[_SPACE + word[:end], character] = None
    return list(merges)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer with the two files that other readers expect beside it."""
    # Not Tokenizer.save, whose errors do not say that they are the disk's.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    names = {
        "bos_token": _BEGIN,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": _UNKNOWN,
    }
    write_json(folder / "special_tokens_map.json", names)
    write_json(
        folder / "tokenizer_config.json",
        {
            **names,
            "add_bos_token": True,
            "add_eos_token": False,
            "chat_template": _CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 131072,
            "padding_side": "right",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read; the same bytes for the same content."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
