"""One line of a jsonl file as a typed conversation.

A line is `{"id": ..., "source": ..., "conversations": [{"images": [...], "user": ..., "assistant": ...},
...]}`: turns in order, each with any number of pictures.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from phitune_trainer.data.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"<\|image_\d+\|>")


@dataclass(frozen=True)
class Turn:
    """What the user shows and says, and what the assistant is to answer."""

    images: tuple[str, ...]
    """Paths relative to the images folder."""
    user: str
    assistant: str


@dataclass(frozen=True)
class Conversation:
    """At least one turn."""

    turns: tuple[Turn, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """Pictures of all turns, in the order of their numbers."""
        return tuple(name for turn in self.turns for name in turn.images)


def parse_conversation(line: str) -> Conversation:
    """Read one line. Raises DataError (without a place) that names the key and what is expected there."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}; each line must be one JSON object") from error
    record = _typed(content, dict, "the line")
    for key in ("id", "source"):
        if key in record:
            _typed(record[key], str, key)
    turns = _typed(_required(record, "conversations", "the line"), list, "conversations")
    if not turns:
        raise DataError("conversations: must have at least one turn")
    return Conversation(
        tuple(_parse_turn(turn, f"conversations[{number}]") for number, turn in enumerate(turns))
    )


def _parse_turn(content: Any, where: str) -> Turn:
    record = _typed(content, dict, where)
    images = _typed(record.get("images", []), list, f"{where}.images")
    for number, name in enumerate(images):
        _typed(name, str, f"{where}.images[{number}]")
    user = _typed(_required(record, "user", where), str, f"{where}.user")
    assistant = _typed(_required(record, "assistant", where), str, f"{where}.assistant")
    if not user.strip() and not images:
        raise DataError(f"{where}.user: is empty and the turn has no picture; say what is asked")
    if not assistant.strip():
        raise DataError(f"{where}.assistant: is empty; every turn needs an answer to train")
    for key, text in (("user", user), ("assistant", assistant)):
        if _SURROGATE.search(text):
            raise DataError(f"{where}.{key}: has half a character (a lone \\ud800 to \\udfff); remove it")
        if placeholder := _PLACEHOLDER.search(text):
            raise DataError(
                f"{where}.{key}: has {placeholder.group()!r}; remove it; `images` says which pictures go in"
            )
    return Turn(tuple(images), user, assistant)


def _required(record: dict[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise DataError(f"{where}: has no {key!r}; it has {', '.join(sorted(record)) or 'no keys'}")
    return record[key]


_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise DataError(f"{where}: must be {_NAMES[kind]}, got {json.dumps(value)[:40]}")
    return value
