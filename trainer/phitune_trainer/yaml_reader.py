"""YAML as kubectl reads it, into the plain values that JSON knows.

PyYAML's own loaders read 4e-5 as a string, 1:30 as 90 and let a later key win silently; kubectl does none of
these. Here PyYAML only parses, the scalars are resolved by kubectl's rules. What JSON cannot hold is refused,
with line and column, except for NaN and infinity: they are passed on, so that whoever checks the document can
name the field.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

MAX_VALUES: Final = 100_000
"""Values in one file, aliases counted at each use: a few lines of aliases can stand for billions."""


class YamlError(Exception):
    """A text is not YAML that kubectl would take; the message says where and why."""

    def __init__(self, problem: str, line: int, column: int):
        super().__init__(f"line {line}, column {column}: {problem}")


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    value: object
    """dict, list, str, int, float, bool or None."""
    line: int
    """Where it starts, from 1."""


def read_document(text: str) -> object:
    """The value of a text that holds one document; None for an empty one."""
    documents = read_documents(text)
    if len(documents) > 1:
        raise YamlError("one document expected, another one begins", documents[1].line, 1)
    return documents[0].value if documents else None


def read_documents(text: str) -> list[Document]:
    """Every document of a text that is not empty, in order; YamlError for the first that cannot be read."""
    if text.lstrip().startswith("{"):
        try:
            return list(_json_documents(text))
        except (json.JSONDecodeError, RecursionError):
            pass  # a flow mapping of YAML also begins like this, and YAML's message says more
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
        builder = _Builder()
        return [Document(builder.value(node), _line(node)) for node in nodes if not _is_empty(node)]
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise YamlError(f"character #x{error.character:04x} is not allowed in YAML", line, column) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(problem, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1) from error
    except RecursionError as error:
        raise YamlError("nested too deeply", 1, 1) from error


def write_document(document: object) -> str:
    """A text that `read_document` reads as this value; the same text for the same value."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes strings such as 0008 and 1e5: numbers to kubectl, not to PyYAML, which would leave them bare."""


def _represent_string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if isinstance(_plain(text), str) else "'"
    )


_Dumper.add_representer(str, _represent_string)

_PLAIN: Final = "plain"


class _Loader(yaml.BaseLoader):
    """Marks the scalars that stand without quotes and tag: only these may be anything but strings."""

    def resolve(self, kind: type[yaml.Node], _: str | None, implicit: tuple[bool, bool] | bool) -> str:
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            return _PLAIN
        return "tag:yaml.org,2002:str" if kind is yaml.ScalarNode else "collection"


class _Builder:
    """Turns parsed nodes into values, with one budget for the whole file."""

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> object:
        self._left -= 1
        if self._left < 0:
            raise _error(f"more than {MAX_VALUES:,} values, aliases counted as often as they are used", node)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self._open:
            raise _error("an alias contains itself", node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, object]:
        values: dict[str, object] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.tag == _PLAIN and key_node.value == "<<":
                # As in kubectl, what comes later in the file wins, also over the map's own keys before it.
                for source in reversed(list(self._merge_sources(value_node))):
                    values.update(source)
                continue
            key = _key(key_node)
            if key in own:
                raise _error(f"key {json.dumps(key)} is given twice", key_node)
            own.add(key)
            values[key] = self.value(value_node)
        return values

    def _merge_sources(self, node: yaml.Node) -> Iterator[dict[str, object]]:
        """What `<<` takes in: a map, or a list of maps of which the first wins."""
        value = self.value(node)
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise _error("<< takes a map or a list of maps", node)
            yield source


def _key(node: yaml.Node) -> str:
    """A key as JSON has it: a number or a boolean becomes its text."""
    value = _scalar(node) if isinstance(node, yaml.ScalarNode) else node
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise _error("a key must be a string", node)


_NULLS: Final = {"", "~", "null", "Null", "NULL"}
_BOOLS: Final = {
    spelling: truth
    for truth, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_SPECIAL_FLOATS: Final = {
    sign + spelling: float(sign + name)
    for name, spellings, signs in (
        ("inf", (".inf", ".Inf", ".INF"), ("", "+", "-")),
        ("nan", (".nan", ".NaN", ".NAN"), ("",)),
    )
    for spelling in spellings
    for sign in signs
}
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTS: Final = (
    (re.compile(r"([-+]?)0[bB]([01]+)"), 2),
    (re.compile(r"([-+]?)0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"([-+]?)0[oO]?([0-7]+)"), 8),
    (re.compile(r"([-+]?)(0|[1-9][0-9]*)"), 10),
)
_LARGEST_INT: Final = 2**64 - 1
_JSON_WHOLE: Final = 1e21
"""Below this a float without a fraction is written to JSON as a whole number: 2.0 arrives as 2."""


def _scalar(node: yaml.ScalarNode) -> object:
    text = str(node.value)
    if node.tag == "tag:yaml.org,2002:binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _error("!!binary does not hold base64 of a text", node) from error
    return _plain(text) if node.tag == _PLAIN else text


def _plain(text: str) -> object:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[text]
    number = text.replace("_", "")
    for pattern, base in _INTS:
        if match := pattern.fullmatch(number):
            whole = int(match[1] + match[2], base)
            return whole if abs(whole) <= _LARGEST_INT else float(whole)
    if _FLOAT.fullmatch(number):
        value = float(number)
        if abs(value) == float("inf"):
            return text
        return int(value) if value.is_integer() and abs(value) < _JSON_WHOLE else value
    return text


def _json_documents(text: str) -> Iterator[Document]:
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_float=_plain)
    position = 0
    while (start := _skip_blank(text, position)) < len(text):
        value, position = decoder.raw_decode(text, start)
        yield Document(value, text.count("\n", 0, start) + 1)


def _skip_blank(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise json.JSONDecodeError("a key is given twice", "", 0)
    return dict(pairs)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error(problem: str, node: yaml.Node) -> YamlError:
    return YamlError(problem, node.start_mark.line + 1, node.start_mark.column + 1)
