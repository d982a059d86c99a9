"""Two incarnations of one run alive at once, their file operations in any order."""

import os
from itertools import chain, cycle, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.file_operations import watching
from harness.tiny_run import TinyRun
from harness.turns import Turns
from phitune_trainer.checkpoint.files import DamagedCheckpoint, check, is_whole
from phitune_trainer.config import TrainConfig
from phitune_trainer.errors import Superseded
from phitune_trainer.incarnation import Origin, choose_origin, line_before
from phitune_trainer.run_layout import RunLayout, steps_in

KEEP = 1
STEPS = 3


class Seen:
    """What has been seen of the run's folder so far, looked at after each operation."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._newest: Origin | None = None
        self._number = 0

    def look(self) -> None:
        """The newest start's line has only grown, and what it continues from is there."""
        layout = self._layout
        started = [n for n in layout.incarnation_numbers() if layout.incarnation(n).start.is_file()]
        if not started:
            return
        newest = next(line_before(layout, started[-1] + 1), None)
        if started[-1] == self._number and self._newest is not None:
            assert newest is not None, f"{self._newest} is gone"
            assert (newest.incarnation, newest.step) >= (self._newest.incarnation, self._newest.step)
        if newest is not None:
            assert is_whole(layout.incarnation(newest.incarnation).checkpoint(newest.step))
        self._number, self._newest = started[-1], newest


class Incarnation:
    """One of the two, and how it ended."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._layout = RunLayout(config.run_dir)
        self.number = 0
        self.saves_begun: dict[int, int] = {}
        """Which step it was about to save when it first saw that so many starts exist."""
        self.message: str | None = None
        self.losses: dict[int, float] = {}
        self.origin: Origin | None = None

    def run(self) -> None:
        try:
            told = TinyRun(self._config, say=self._listen, at_save=self._at_save).go(STEPS)
        except Superseded as end:
            self.message = str(end)
            return
        self.losses, self.origin = told.losses, told.start.origin
        assert told.trouble == []

    def _listen(self, line: str) -> None:
        words = line.split()
        if words[0] == "started":
            self.number = int(words[1])

    def _at_save(self, step: int) -> None:
        self.saves_begun.setdefault(len(self._layout.incarnation_numbers()), step)


@pytest.mark.slow
@given(st.lists(st.integers(1, 90), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_whatever_order_two_starts_write_the_newer_ones_line_stays_and_the_older_one_ends(
    make_config: Any, lengths: list[int]
) -> None:
    """They take turns of so many operations; whose turn is the last one goes on to its end."""
    with TemporaryDirectory() as folder:
        config = make_config(checkpoint={"keep": KEEP})
        config = config.model_copy(update={"run": config.run.model_copy(update={"workspace": folder})})
        layout = RunLayout(config.run_dir)
        seen = Seen(layout)
        both = [Incarnation(config), Incarnation(config)]
        turns = Turns(chain.from_iterable(map(repeat, cycle((0, 1)), lengths)), seen.look)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)  # nothing crashes here
            with watching(Path(folder), turns.before):
                turns.run([one.run for one in both])
        older, newer = sorted(both, key=lambda one: one.number)
        assert (older.number, newer.number) == (1, 2)
        assert newer.message is None
        if 2 in older.saves_begun:  # it came to a save when the newer one was there
            assert older.message == "incarnation 2 of this run has started; this one, 1, ends here"
            assert steps_in(layout.incarnation(1).checkpoints)[-1:] < [older.saves_begun[2]]
        last = newer.origin.step if newer.origin else 0
        assert list(newer.losses) == list(range(last + 1, STEPS + 1))
        third, passed_over = choose_origin(layout, 3, check, DamagedCheckpoint)
        assert (third, passed_over) == (Origin(2, STEPS) if newer.losses else newer.origin, [])
