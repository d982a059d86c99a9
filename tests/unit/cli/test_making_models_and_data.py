"""`phitune init-model`, `phitune data digits` and `phitune data ucf101`."""

from pathlib import Path

import pytest

from phitune_cli.main import main

MODEL = ["init-model", "--size", "tiny", "--out"]
DIGITS = ["data", "digits", "--out"]


@pytest.mark.parametrize(
    ("command", "proof"),
    [
        pytest.param(MODEL, "parameters", id="init-model"),
        pytest.param(DIGITS, "1,497 pictures", id="data digits"),
    ],
)
def test_a_folder_is_made_once_and_anew_only_by_force(
    command: list[str], proof: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for more, made in (([], True), ([], False), (["--force"], True)):
        before = out.stat().st_ino if out.exists() else None
        assert main([*command, str(out), *more]) == 0
        printed = capsys.readouterr().out
        assert proof in printed
        assert ("making" in printed) is made
        assert ("--force makes it anew" in printed) is not made
        assert (out.stat().st_ino != before) is made
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param(MODEL, "not a model folder, so it is not replaced", id="init-model"),
        pytest.param(DIGITS, "not a data folder, so it is not replaced", id="data digits"),
    ],
)
def test_force_never_removes_what_is_something_else(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main([*command, str(tmp_path), "--force"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", [MODEL, DIGITS], ids=["init-model", "data digits"])
def test_a_folder_that_is_something_else_is_not_taken_for_done(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main([*command, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("command", [MODEL, DIGITS], ids=["init-model", "data digits"])
def test_a_place_that_cannot_be_written_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*command, str(tmp_path / "file" / "out")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", "2147483648"])
def test_a_seed_that_is_none_is_refused(
    seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*MODEL, str(tmp_path / "out"), f"--seed={seed}"])
    assert exit_.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_frames_that_are_stopped_at_can_be_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phitune_trainer.data.ucf101.find_videos", lambda _: [])
    monkeypatch.setattr("phitune_trainer.data.ucf101.convert", convert)
    assert main(["data", "ucf101", "--videos", str(tmp_path), "--out", str(tmp_path / "out")]) == 75
    assert capsys.readouterr().err == "stopped; run it again to go on\n"
