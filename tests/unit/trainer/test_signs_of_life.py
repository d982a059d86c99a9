"""Long work shows that it goes on: the operator takes a gang without any sign of life for one that hangs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from phitune_trainer import progress as progress_module
from phitune_trainer.narrator import Narrator
from phitune_trainer.progress import Progress


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """A progress whose clock ticks with each look at it."""
    ticks = itertools.count()
    monkeypatch.setattr(progress_module, "timestamp", lambda: f"2026-01-01T12:00:{next(ticks):02}Z")
    return Progress(attempt=1)


def test_every_scored_sample_is_one(progress: Progress, tmp_path: Path) -> None:
    narrator = Narrator(0, tmp_path, progress)
    narrator.evaluating(4)
    seen = []
    for done in range(5):
        narrator.evaluation_progress(done, 5)
        seen.append(progress.snapshot()["updatedAt"])
    assert len(set(seen)) == 5


def test_a_checkpoint_that_grows_is_one_and_one_that_does_not_is_none(
    progress: Progress, tmp_path: Path
) -> None:
    narrator = Narrator(0, tmp_path, progress)
    narrator.saving(4)
    seen = []
    for written in (10, 20, 20, 20, 30):
        narrator.saving_progress(written, 100)
        seen.append(progress.snapshot()["updatedAt"])
    assert seen[0] < seen[1] == seen[2] == seen[3] < seen[4]
