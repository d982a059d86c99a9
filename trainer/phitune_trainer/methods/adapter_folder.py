"""A folder of adapters in PEFT's layout, which also says whether they belong beside 4-bit weights.

PEFT's own files do not say it, and beside weights that are not quantised the same adapters are another model.
"""

import json
from pathlib import Path
from typing import Any, Final

from phitune_trainer.errors import UserError

ABOUT: Final = "phitune.json"


def save_adapter(peft_model: Any, folder: Path, method: str, *, base: str | None = None) -> None:
    """Write the adapters of a model that was trained by `method`; `base` is its name on the hub, if any."""
    peft_model.peft_config["default"].base_model_name_or_path = base
    peft_model.save_pretrained(str(folder), save_embedding_layers=False)
    write_about(folder, method)


def write_about(folder: Path, method: str, **more: str | int) -> None:
    """Say what a folder of adapters, or of whole weights, was trained by, and what else is known of it."""
    text = json.dumps({"version": 1, "method": method, **more}, indent=1)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def is_for_four_bits(folder: Path) -> bool:
    """Whether the adapters of a folder were trained beside 4-bit weights; no, where it does not say.

    UserError where what it says cannot be read.
    """
    path = folder / ABOUT
    if not path.is_file():
        return False
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["method"] == "qlora")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); copy the adapter again") from error
