"""How the images of a release are made."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from imagebuild.cli import main
from imagebuild.paths import ROOT
from imagebuild.recipes import release, releases
from phitune_operator.builds import BUILDS


def test_a_release_has_the_operator_and_the_trainer_in_every_build_of_the_matrix() -> None:
    assert releases() == ["operator", *(f"trainer-{build.name}" for build in BUILDS)]


def test_builds_share_a_repository_and_are_told_apart_by_their_tags() -> None:
    references = [release(name, "base").reference("1.2") for name in releases()]
    assert references == [
        "phitune/operator:1.2",
        "phitune/trainer:1.2-flash",
        "phitune/trainer:1.2-plain",
        "phitune/trainer:1.2-v100",
    ]


@pytest.mark.parametrize("name", releases())
def test_another_base_makes_another_image(name: str) -> None:
    one, other = release(name, "debian:1"), release(name, "debian:2")
    assert one.content != other.content
    assert "BASE_IMAGE=debian:1" in one.arguments
    assert [word for word in one.arguments if word.startswith("BUILD=")] == (
        [f"BUILD={name.removeprefix('trainer-')}"] if name != "operator" else []
    )


def test_only_flash_attn_is_compiled_and_how_many_files_at_a_time_makes_no_other_image() -> None:
    for name in releases():
        slow, fast = release(name, "base"), release(name, "base", jobs=8)
        assert slow.content == fast.content
        assert ("JOBS=8" in fast.arguments) == (name == "trainer-flash")


def test_a_release_says_of_which_commit_it_is() -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("these sources are no git checkout")

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--untracked-files=no")
    for made in (release(name, "base") for name in releases()):
        assert made.revision == (made.content if changed else git("rev-parse", "HEAD").strip())


def test_sources_without_git_are_called_by_their_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    made = release("operator", "base")
    assert made.revision == made.content


def test_image_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    for words, known in (
        (["build", "trainer-flash"], "IMAGE is one of operator, trainer, all without --release"),
        (["build", "--release", "trainer"], "operator, trainer-flash, trainer-plain, trainer-v100, all with"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert known in " ".join(capsys.readouterr().err.split())
