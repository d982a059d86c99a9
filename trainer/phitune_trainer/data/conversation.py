"""One line of a jsonl file as a typed conversation.

A line is `{"id": ..., "source": ..., "conversations": [{"images": [...], "user": ..., "assistant": ...},
...]}`: turns in order, each with any number of pictures.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from phitune_trainer.data.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Turn:
    """What the user shows and says, and what the assistant is to answer."""

    images: tuple[str, ...]
    """Paths relative to the images folder."""
    user: str
    assistant: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order; at least one, where it is used."""

    turns: tuple[Turn, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """Pictures of all turns, in the order of their numbers."""
        return tuple(name for turn in self.turns for name in turn.images)


def parse_turn(content: Any, where: str) -> Turn:
    """Check a turn given as plain data. Raises DataError whose message begins with `where`."""
    if (problem := next(_problems_of_turn(content, where), None)) is not None:
        raise DataError(problem)
    return _turn(content)


@dataclass(frozen=True)
class Examined:
    """What was found in a line."""

    conversation: Conversation
    """What can be read of it: a turn, text or picture of another form than expected is left empty or out."""
    problems: tuple[str, ...] = ()
    """Everything that is wrong with its form, each with its key."""


def examine_conversation(line: str) -> Examined:
    """Read a line. Special tokens in its texts are not looked for, nor its pictures."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return unreadable(f"not JSON: {error}; each line must be one JSON object")
    return Examined(Conversation(tuple(map(_turn, _turns_of(content)))), tuple(_problems_of_line(content)))


def unreadable(problem: str) -> Examined:
    """A line of which nothing can be read."""
    return Examined(Conversation(()), (problem,))


def _turns_of(content: Any) -> list[Any]:
    turns = content.get("conversations") if isinstance(content, dict) else None
    return turns if isinstance(turns, list) else []


def _turn(content: Any) -> Turn:
    """What can be read of a turn."""
    turn = content if isinstance(content, dict) else {}
    images = turn.get("images")
    names = images if isinstance(images, list) else []
    user, assistant = (
        text if isinstance(text := turn.get(key), str) else "" for key in ("user", "assistant")
    )
    return Turn(
        tuple(name for name in names if isinstance(name, str) and not _SURROGATE.search(name)),
        user,
        assistant,
    )


def _problems_of_line(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        yield _wrong_type(content, "an object", "the line")
        return
    for key in ("id", "source"):
        if not isinstance(content.get(key, ""), str):
            yield _wrong_type(content[key], "a string", key)
    for key in ("image", "images"):
        if key in content:
            yield f"the line: has {key!r}; pictures belong to a turn, in its `images`"
    if "conversations" not in content:
        yield _missing("conversations", content, "the line")
        return
    turns = content["conversations"]
    if not isinstance(turns, list):
        yield _wrong_type(turns, "a list", "conversations")
        return
    if not turns:
        yield "conversations: must have at least one turn"
    for number, turn in enumerate(turns):
        yield from _problems_of_turn(turn, f"conversations[{number}]")


def _problems_of_turn(content: Any, where: str) -> Iterator[str]:
    if not isinstance(content, dict):
        yield _wrong_type(content, "an object", where)
        return
    yield from _problems_of_images(content, where)
    for key in ("user", "assistant"):
        if key not in content:
            yield _missing(key, content, where)
        elif not isinstance(content[key], str):
            yield _wrong_type(content[key], "a string", f"{where}.{key}")
        else:
            yield from _problems_of_text(content[key], f"{where}.{key}")
            if not content[key].strip():
                if key == "assistant":
                    yield f"{where}.assistant: is empty; every turn needs an answer to train"
                elif not content.get("images"):
                    yield f"{where}.user: is empty and the turn has no picture; say what is asked"


def _problems_of_images(content: dict[str, Any], where: str) -> Iterator[str]:
    if "image" in content:  # overlooked, it would train a text without its picture
        yield f"{where}: has 'image'; the key is 'images', a list of paths"
    images = content.get("images", [])
    if not isinstance(images, list):
        yield _wrong_type(images, "a list", f"{where}.images")
    else:
        for number, name in enumerate(images):
            if not isinstance(name, str):
                yield _wrong_type(name, "a string", f"{where}.images[{number}]")
            elif _SURROGATE.search(name):
                yield _half_a_character(f"{where}.images[{number}]")


def _problems_of_text(text: str, where: str) -> Iterator[str]:
    if _SURROGATE.search(text):
        yield _half_a_character(where)


def _missing(key: str, content: dict[str, Any], where: str) -> str:
    keys = ", ".join(repr(found)[1:-1] for found in sorted(content))
    return f"{where}: has no {key!r}; it has {keys or 'no keys'}"


def _half_a_character(where: str) -> str:
    return f"{where}: has half a character (a lone \\ud800 to \\udfff); remove it"


def _wrong_type(value: Any, expected: str, where: str) -> str:
    return f"{where}: must be {expected}, got {json.dumps(value)[:40]}"
