"""Starts of one run, also two alive at once, and which checkpoint each of them continues from."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phitune_trainer.errors import Superseded, UserError
from phitune_trainer.incarnation import (
    Origin,
    choose_origin,
    claim,
    line_before,
    newer_start,
    record_start,
    refuse_if_superseded,
    retire_old_checkpoints,
)
from phitune_trainer.run_layout import IncarnationFolder, RunLayout, steps_in


class BrokenError(Exception):
    pass


def refuse_broken(folder: Path) -> None:
    if (folder / "broken").exists():
        raise BrokenError(str(folder))


def begin(layout: RunLayout) -> tuple[IncarnationFolder, Origin | None]:
    folder = claim(layout)
    origin, _ = choose_origin(layout, folder.number, refuse_broken, BrokenError)
    record_start(folder, origin, attempt=1)
    return folder, origin


def save(folder: IncarnationFolder, *steps: int) -> None:
    for step in steps:
        folder.checkpoint(step).mkdir(parents=True)


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path / "run")


def test_the_first_start_has_nothing_to_continue_from(layout: RunLayout) -> None:
    folder, origin = begin(layout)
    assert (folder.number, origin) == (1, None)


def test_a_start_continues_from_the_newest_checkpoint_of_the_one_before(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    assert begin(layout)[1] == Origin(1, 200)


def test_a_half_written_checkpoint_is_not_seen(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100)
    (first.checkpoints / ".partial-step-00000200").mkdir()
    assert begin(layout)[1] == Origin(1, 100)


def test_a_start_that_saved_nothing_passes_on_where_it_began(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100)
    begin(layout)
    assert begin(layout)[1] == Origin(1, 100)


def test_what_an_older_start_writes_late_is_never_part_of_the_line(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100)
    second, _ = begin(layout)
    save(first, 200, 300)  # it was cut off, not dead
    assert begin(layout)[1] == Origin(1, 100)
    save(second, 150)
    # The third start has branched off at step 100 already: step 150 came late as well.
    assert begin(layout)[1] == Origin(1, 100)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    (first.checkpoint(200) / "broken").touch()
    origin, passed_over = choose_origin(layout, 2, refuse_broken, BrokenError)
    assert origin == Origin(1, 100)
    assert passed_over == [str(first.checkpoint(200))]


def test_when_the_checkpoint_it_began_with_is_damaged_an_older_one_of_the_line_is_used(
    layout: RunLayout,
) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    begin(layout)
    save(first, 300)
    (first.checkpoint(200) / "broken").touch()
    assert begin(layout)[1] == Origin(1, 100)


def test_a_start_that_died_before_its_record_is_passed_over(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100)
    claim(layout)
    folder, origin = begin(layout)
    assert (folder.number, origin) == (3, Origin(1, 100))


def test_a_damaged_record_is_named_rather_than_guessed(layout: RunLayout) -> None:
    first, _ = begin(layout)
    first.start.write_text("{")
    with pytest.raises(UserError, match=r"0001/start\.json is damaged"):
        begin(layout)


def test_older_starts_keep_theirs_until_this_one_has_enough_of_its_own(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100)
    second, _ = begin(layout)
    save(second, 200)
    retire_old_checkpoints(layout, second, keep=2, is_whole=Path.is_dir)
    assert (steps_in(first.checkpoints), steps_in(second.checkpoints)) == ([100], [200])
    save(second, 300, 400)
    retire_old_checkpoints(layout, second, keep=2, is_whole=Path.is_dir)
    assert (list(first.checkpoints.iterdir()), steps_in(second.checkpoints)) == ([], [300, 400])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["start", "save", "save", "save"])), max_size=40)
)
@settings(max_examples=60, deadline=None)
def test_whatever_starts_overlap_the_newest_can_always_go_on(events: list[tuple[int, str]]) -> None:
    """Starts that were cut off go on saving and removing; of the newest start's line nothing is lost."""
    with TemporaryDirectory() as folder:
        layout = RunLayout(Path(folder) / "run")
        starts = [begin(layout)]
        saved = [0]
        for which, event in events:
            if event == "start":
                starts.append(begin(layout))
                saved.append(starts[-1][1].step if starts[-1][1] else 0)
            else:
                which %= len(starts)
                saved[which] += 1
                save(starts[which][0], saved[which])
                retire_old_checkpoints(layout, starts[which][0], keep=2, is_whole=Path.is_dir)
            newest, origin = starts[-1]
            own = steps_in(newest.checkpoints)
            if origin is not None and len(own) < 2:
                assert layout.incarnation(origin.incarnation).checkpoint(origin.step).is_dir()
            wanted = saved[-1] or None
            found = next(line_before(layout, newest.number + 1), None)
            assert (found.step if found else None) == wanted


def test_a_start_that_a_newer_one_has_replaced_is_refused(layout: RunLayout) -> None:
    first, _ = begin(layout)
    refuse_if_superseded(layout, first)
    second, _ = begin(layout)
    refuse_if_superseded(layout, second)
    with pytest.raises(Superseded, match="incarnation 2 of this run has started"):
        refuse_if_superseded(layout, first)


def test_an_older_start_removes_nothing_once_a_newer_one_exists(layout: RunLayout) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    second, origin = begin(layout)
    save(first, 300, 400)
    retire_old_checkpoints(layout, first, keep=1, is_whole=Path.is_dir)
    assert origin == Origin(1, 200)
    assert steps_in(first.checkpoints) == [100, 200, 300, 400]
    assert (newer_start(layout, first.number), newer_start(layout, second.number)) == (2, None)


def test_a_checkpoint_that_a_newer_start_may_need_is_put_back(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    rename = os.rename
    newer: list[IncarnationFolder] = []

    def rename_as_a_newer_start_begins(source: Path, target: Path) -> None:
        rename(source, target)
        if not newer:
            newer.append(claim(layout))

    monkeypatch.setattr(os, "rename", rename_as_a_newer_start_begins)
    retire_old_checkpoints(layout, first, 1, Path.is_dir)
    (first.checkpoint(200) / "broken").touch()
    assert choose_origin(layout, newer[0].number, refuse_broken, BrokenError)[0] == Origin(1, 100)


def test_what_cannot_be_removed_is_left_for_the_next_time(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = begin(layout)
    save(first, 100, 200)
    busy = OSError(errno.ENOTEMPTY, "Directory not empty")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", lambda *args, **kwargs: (_ for _ in ()).throw(busy))
        with pytest.raises(OSError, match="not empty"):
            retire_old_checkpoints(layout, first, 1, Path.is_dir)
    save(first, 300)
    retire_old_checkpoints(layout, first, 1, Path.is_dir)
    assert steps_in(first.checkpoints) == [300]
    assert list(first.checkpoints.glob(".retired-*")) == []
