"""Folders that several processes build at once."""

from pathlib import Path

from phitune_trainer.folders import building


def test_two_that_replace_one_folder_at_once_never_remove_each_others(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "old").touch()
    with building(out, replace=True) as first:
        (first / "a").write_text("first")
        with building(out, replace=True) as second:
            (second / "a").write_text("second")
        assert [path.name for path in out.iterdir()] == ["a"]
        assert (first / "a").read_text() == "first"
    assert (out / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
