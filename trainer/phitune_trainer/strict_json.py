"""JSON that every reader takes: Python would write NaN and Infinity, which are not JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """`value` with None in the place of every number that is not finite, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON, null for what is not finite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)
