"""What unit tests of several folders begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes tells of what else the machine does; what must be fast has a test of its own.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder; nothing may be written there."""
    from phitune_trainer.init_model import init_model  # slow to import, and most tests do without

    folder = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", folder, 0)
    return folder
