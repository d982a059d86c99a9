"""What goes into a bundle, and how it is loaded where there is no network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuild import bundle
from imagebuild.build import Built
from imagebuild.paths import ROOT


def oci_archive(path: Path, reference: str, *layers: bytes) -> None:
    """An archive as `imagebuild.archive` writes them: blobs under their digests, one manifest."""
    blobs = {hashlib.sha256(layer).hexdigest(): layer for layer in (*layers, reference.encode())}
    index = {"manifests": [{"annotations": {"io.containerd.image.name": reference}}]}
    with tarfile.open(path, "w") as tar:
        for name, content in [
            ("oci-layout", b"{}"),
            ("index.json", json.dumps(index).encode()),
            *((f"blobs/sha256/{digest}", blob) for digest, blob in blobs.items()),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def built(folder: Path, name: str, *layers: bytes) -> Built:
    reference = f"localhost/phitune/{name}:1"
    archive, sbom = folder / f"{name}.tar", folder / f"{name}.cdx.json"
    oci_archive(archive, reference, *layers)
    sbom.write_text("{}")
    return Built(
        name=name, reference=reference, archive=archive, sbom=sbom, bytes=1, seconds=0.0, was_there=False
    )


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A folder into which a bundle of two images that share a layer was unpacked."""
    images = [built(tmp_path, "operator", b"base", b"a"), built(tmp_path, "trainer", b"base", b"b")]
    bundle.write(images, tmp_path / "out" / "bundle.tar")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle.tar"]
    folder = tmp_path / "in"
    folder.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "out" / "bundle.tar", "-C", folder], check=True)
    return folder


def load(folder: Path, *arguments: str, **tools: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own script where these tools, scripts, are all that there is beside sh's."""
    for name, script in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [folder / "load", *arguments], capture_output=True, text=True, env={"PATH": path}, cwd="/"
    )


def test_bundle_holds_images_chart_crds_and_lists_of_contents(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert files == {
        "images.tar",
        "images.txt",
        "phitune-0.1.0.tgz",
        "crds/phitune.dev_finetunejobs.yaml",
        "sbom/operator.cdx.json",
        "sbom/trainer.cdx.json",
        "SHA256SUMS",
        "load",
    }


def test_images_lie_in_one_archive_and_what_they_share_lies_there_once(unpacked: Path) -> None:
    with tarfile.open(unpacked / "images.tar") as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json") or io.BytesIO())
    assert sorted(names) == sorted(set(names))
    assert len([name for name in names if name.startswith("blobs/")]) == 5
    found = [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]]
    assert found == ["localhost/phitune/operator:1", "localhost/phitune/trainer:1"]


def test_chart_has_every_file_of_its_sources_and_the_same_bytes_each_time(unpacked: Path) -> None:
    with tarfile.open(unpacked / "phitune-0.1.0.tgz") as tar:
        packed = {name: (tar.extractfile(name) or io.BytesIO()).read() for name in tar.getnames()}
    source = ROOT / "charts" / "phitune"
    files = {f"phitune/{p.relative_to(source)}": p.read_bytes() for p in source.rglob("*") if p.is_file()}
    assert packed == files
    assert bundle.packaged_chart(source) == (unpacked / "phitune-0.1.0.tgz").read_bytes()


def test_load_imports_into_containerd_whatever_folder_it_is_called_from(unpacked: Path) -> None:
    done = load(unpacked, ctr='echo "$PWD $*"')
    assert done.returncode == 0, done.stderr
    where, said = done.stdout.strip().split(" ", 1)
    assert Path(where).samefile(unpacked)
    assert said == "--namespace k8s.io images import --all-platforms images.tar"


def test_load_pushes_each_image_under_its_name_into_a_registry(unpacked: Path) -> None:
    done = load(unpacked, "r.example/team", skopeo='echo "$*"')
    assert [line for line in done.stdout.splitlines() if line.startswith("copy")] == [
        f"copy oci-archive:images.tar:localhost/phitune/{name}:1 docker://r.example/team/phitune/{name}:1"
        for name in ("operator", "trainer")
    ]


def test_image_that_was_pushed_as_well_is_listed_as_the_archive_has_it(tmp_path: Path) -> None:
    pushed = replace(built(tmp_path, "operator", b"base"), reference="r.example/phitune/operator:1")
    bundle.write([pushed], tmp_path / "bundle.tar")
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        assert (tar.extractfile("images.txt") or io.BytesIO()).read() == b"localhost/phitune/operator:1\n"


@pytest.mark.parametrize("file", ["images.tar", "phitune-0.1.0.tgz", "crds/phitune.dev_finetunejobs.yaml"])
def test_damaged_bundle_is_not_loaded(unpacked: Path, file: str) -> None:
    with (unpacked / file).open("ab") as damaged:
        damaged.write(b"x")
    done = load(unpacked, ctr="echo imported")
    assert done.returncode != 0
    assert "imported" not in done.stdout
    assert file in done.stdout + done.stderr


def test_bundle_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    one = built(tmp_path, "operator", b"base")
    shutil.move(one.sbom, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        bundle.write([one], tmp_path / "out" / "bundle.tar")
    assert list((tmp_path / "out").iterdir()) == []
