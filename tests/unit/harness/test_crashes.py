"""The tests' own model of a crashing volume keeps what was synced, and nothing for certain beside that."""

from pathlib import Path

from harness.crashes import Tree, crashes, read_tree
from harness.file_operations import watching


def states_after(folder: Path) -> list[Tree]:
    """What may be found after a file `new` was written and renamed."""
    with watching(folder) as journal:
        (folder / "new").write_bytes(b"1234")
        (folder / "new").rename(folder / "file")
    assert read_tree(folder) == {"file": b"1234"}
    return [crash.tree for crash in crashes(journal.operations)]


def test_without_any_sync_everything_may_be_there_or_not(tmp_path: Path) -> None:
    found = states_after(tmp_path)
    for state in ({}, {"new": b""}, {"new": b"12"}, {"new": b"1234"}, {"file": b""}, {"file": b"1234"}):
        assert state in found


def test_what_was_said_belongs_to_the_last_operation_that_may_leave_a_state(tmp_path: Path) -> None:
    with watching(tmp_path) as journal:
        (tmp_path / "folder").mkdir()
        journal.say("made")
    said = {len(crash.tree): crash.said for crash in crashes(journal.operations)}
    assert said == {0: ["made"], 1: ["made"]}
