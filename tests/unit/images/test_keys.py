"""What a change does to the keys under which image builds are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.keys import copied_paths, files_key, key
from imagebuild.paths import ROOT
from imagebuild.process import BuildError

DOCKERFILE = """\
FROM base AS deps
COPY requirements.txt /requirements/
FROM deps
COPY --from=deps /opt/tool /opt/tool
COPY --chown=1:1 LICENSE notes.md \\
     /opt/
COPY code /opt/code
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("a = 1\n")
    for name in ("LICENSE", "notes.md", "requirements.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_key_differs_when_a_border_between_parts_moves() -> None:
    assert key("ab", "c") != key("a", "bc")


def test_files_key_differs_for_a_changed_a_renamed_and_a_new_file(project: Path) -> None:
    def now() -> str:
        return files_key(project, [project / "code"])

    keys = [now()]
    (project / "code" / "a.py").write_text("a = 2\n")
    keys.append(now())
    (project / "code" / "a.py").rename(project / "code" / "b.py")
    keys.append(now())
    (project / "code" / "empty.py").touch()
    keys.append(now())
    assert len(set(keys)) == 4


def test_files_key_ignores_bytecode_and_the_place_of_the_project(project: Path, tmp_path: Path) -> None:
    before = files_key(project, [project / "code"])
    (project / "code" / "__pycache__").mkdir()
    (project / "code" / "__pycache__" / "a.pyc").write_bytes(b"x")
    moved = project.rename(tmp_path.with_name("elsewhere"))
    assert files_key(moved, [moved / "code"]) == before


def test_only_what_the_last_stage_takes_from_the_project_is_copied(project: Path) -> None:
    copied = [path.name for path in copied_paths(DOCKERFILE, project)]
    assert copied == ["LICENSE", "notes.md", "code"]


def test_of_all_stages_what_is_taken_from_another_stage_is_not_of_the_project(project: Path) -> None:
    copied = [path.name for path in copied_paths(DOCKERFILE, project, all_stages=True)]
    assert copied == ["requirements.txt", "LICENSE", "notes.md", "code"]


def test_copying_what_does_not_exist_names_the_line(project: Path) -> None:
    (project / "notes.md").unlink()
    with pytest.raises(BuildError, match=r"COPY .*notes\.md.*: there is no notes\.md"):
        copied_paths(DOCKERFILE, project)


@pytest.mark.parametrize(
    ("image", "package"), [("operator", "phitune_operator"), ("trainer", "phitune_trainer")]
)
def test_each_dockerfile_copies_its_package(image: str, package: str) -> None:
    text = (ROOT / "docker" / f"{image}.Dockerfile").read_text()
    assert package in [path.name for path in copied_paths(text, ROOT)]
