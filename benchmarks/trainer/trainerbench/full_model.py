"""A model of the published sizes with random weights, made once and kept outside the repository."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchrows.row import NotMeasured
from trainerbench.commands import phitune

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phitune"
MODEL_FOLDER = CACHE / "models" / "full-seed-0"

_NEEDED_BYTES = 9_000_000_000


def full_model(say: Callable[[str], None]) -> Path:
    """The folder of the model: that of an earlier run if it is complete, else a new one.

    Raises NotMeasured where there is no room for it.
    """
    MODEL_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    if not MODEL_FOLDER.exists():
        free = shutil.disk_usage(MODEL_FOLDER.parent).free
        if free < _NEEDED_BYTES:
            raise NotMeasured(
                f"{MODEL_FOLDER.parent}: {free / 1e9:.1f} GB are free, the model takes 8.3 GB; "
                "set XDG_CACHE_HOME to a folder with room"
            )
        say(f"making a full-size model in {MODEL_FOLDER}, a few minutes")
    phitune("init-model", "--size", "full", "--out", str(MODEL_FOLDER))  # a folder that is there is checked
    return MODEL_FOLDER
