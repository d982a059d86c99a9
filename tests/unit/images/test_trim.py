"""What an image of CPUs leaves out of its packages."""

from __future__ import annotations

from pathlib import Path

from imagebuild.trim import trim

SCRIPT = "bin/idna,sha256=aZG6,303\n"
KEPT = 'idna/__init__.py,sha256=q8,1\n"idna/a, b.txt",sha256=q9,1\nidna-3.20.dist-info/RECORD,,\n'


def test_the_list_of_a_packages_files_has_those_that_are_left(tmp_path: Path) -> None:
    for name in ("bin/idna", "idna/__init__.py", "idna/a, b.txt", "idna-3.20.dist-info/RECORD"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    record = tmp_path / "idna-3.20.dist-info/RECORD"
    record.write_text(SCRIPT + KEPT)
    trim(tmp_path)
    assert not (tmp_path / "bin").exists()
    assert record.read_text() == KEPT
