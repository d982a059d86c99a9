"""What a rule between fields is: one sentence, as CEL for the API server and as Python for `phitune render`.

Both halves see the same thing, the object with the schema's defaults filled in, and say the same sentence,
which begins with the full path of the field to change.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phitune_operator.fields import LABEL_KEY, quantity, seconds

Node = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One sentence that must hold of every object found at a place of the document."""

    at: str
    """Place of the rule in the schema; [*] stands for every entry of a list. Empty: the whole object."""
    field: str
    """Field to name, relative to the place."""
    cel: str
    holds: Callable[[Node], bool] | None
    """None where the types have checked the same already, and only the API server needs to be told."""
    message: str
    """What must hold and what to do, without the path."""
    explain: Callable[[Node], str] | None = None
    """The message with the numbers of the object; the API server's budget for CEL does not allow it."""

    @property
    def path(self) -> str:
        """Full path of the field to name, with [*] where lists are."""
        return ".".join(part for part in (self.at, self.field) if part)

    def reads(self) -> list[str]:
        """Fields that the rule looks at, relative to its place; not the groups on the way to them."""
        found = re.findall(r"self((?:\.[A-Za-z]+(?!\w*\())+)", self.cel)
        paths = {path.removeprefix(".") for path in found}
        return sorted(path for path in paths if not any(other.startswith(f"{path}.") for other in paths))


def get(node: Node, path: str) -> Any:
    """Value of a field inside a document, None where it or a part of the way to it is absent."""
    value: Any = node
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def has(node: Node, path: str) -> bool:
    """Whether the field is given."""
    return get(node, path) is not None


def has_cel(path: str) -> str:
    """CEL for "the field is given": has() fails where the way to the field is absent."""
    parts = path.split(".")
    return " && ".join(f"has(self.{'.'.join(parts[:depth])})" for depth in range(1, len(parts) + 1))


def not_together(path: str, other: str, hint: str) -> Rule:
    """Of two fields of the spec at most one is given."""
    return Rule(
        at="spec",
        field=path,
        cel=f"!({has_cel(path)} && {has_cel(other)})",
        holds=lambda spec: not (has(spec, path) and has(spec, other)),
        message=f"not together with spec.{other}; {hint}",
    )


def only_with(path: str, other: str) -> Rule:
    """A field of the spec needs another one."""
    return Rule(
        at="spec",
        field=path,
        cel=f"!({has_cel(path)}) || ({has_cel(other)})",
        holds=lambda spec: not has(spec, path) or has(spec, other),
        message=f"only with spec.{other}; set that or leave this out",
    )


def only_when(path: str, cel: str, holds: Callable[[Node], bool], message: str) -> Rule:
    """Where a field of the spec is given, something else must hold."""
    return Rule(
        at="spec",
        field=path,
        cel=f"!({has_cel(path)}) || {cel}",
        holds=lambda spec: not has(spec, path) or holds(spec),
        message=message,
    )


def at_least_a_second(path: str) -> Rule:
    """A duration is long enough to be meant."""
    return only_when(
        path,
        f"duration(self.{path}) >= duration('1s')",
        lambda spec: seconds(get(spec, path)) >= 1,
        'must be at least "1s"',
    )


def at_least_a_mebibyte(path: str) -> Rule:
    """A number of bytes is large enough to be meant."""
    return only_when(
        path,
        f"quantity(string(self.{path})).compareTo(quantity('1Mi')) >= 0",
        lambda spec: quantity(get(spec, path)) >= quantity("1Mi"),
        'must be at least "1Mi"; is a suffix such as Gi missing?',
    )


def at_most(path: str, bound: str) -> Rule:
    """A quantity is small enough for whoever calculates with it."""
    return only_when(
        path,
        f"quantity(string(self.{path})).compareTo(quantity('{bound}')) <= 0",
        lambda spec: quantity(get(spec, path)) <= quantity(bound),
        f'must be at most "{bound}"',
    )


def keys_of_labels(path: str, at: str = "spec") -> Rule:
    """The keys of a map are those of labels, which a schema cannot say."""
    return Rule(
        at=at,
        field=path,
        cel=f"!({has_cel(path)}) || self.{path}.all(key, key.size() <= 317 && key.matches(r'{LABEL_KEY}'))",
        holds=None,
        message="every key must be the key of a label, such as example.com/pool",
    )
