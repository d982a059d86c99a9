"""result.json: written last of all, so that a run that has one is complete and is not continued."""

import json
from typing import Any

from phitune_trainer.run_layout import RunLayout, write_atomically
from phitune_trainer.strict_json import to_json


def write_result(layout: RunLayout, result: dict[str, Any]) -> None:
    """Mark the run as complete."""
    write_atomically(layout.result, to_json(result, indent=1))


def read_result(layout: RunLayout) -> dict[str, Any] | None:
    """The result of a run that is complete, else None."""
    if not layout.result.is_file():
        return None
    result: dict[str, Any] = json.loads(layout.result.read_text(encoding="utf-8"))
    return result
