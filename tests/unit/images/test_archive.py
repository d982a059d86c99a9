"""The cache of compressed layers."""

from __future__ import annotations

import hashlib
from pathlib import Path

from imagebuild.archive import Layers


def compressed(folder: Path, content: bytes) -> Path:
    file = folder / hashlib.sha256(content).hexdigest()
    file.write_bytes(content)
    return file


def test_layer_is_found_by_its_uncompressed_digest_and_described_by_its_compressed_one(
    tmp_path: Path,
) -> None:
    layers = Layers(tmp_path / "layers")
    file = compressed(tmp_path, b"packed")
    layers.add("sha256:aa", file)
    kept = layers.get("sha256:aa")
    assert kept is not None
    assert kept.descriptor["digest"] == f"sha256:{hashlib.sha256(b'packed').hexdigest()}"
    assert kept.descriptor["size"] == 6
    assert kept.file.read_bytes() == b"packed"


def test_unknown_layer_is_not_found(tmp_path: Path) -> None:
    assert Layers(tmp_path / "layers").get("sha256:aa") is None


def test_layers_that_no_image_needs_any_more_are_removed(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layers.add("sha256:aa", compressed(tmp_path, b"1"))
    layers.add("sha256:bb", compressed(tmp_path, b"2"))
    layers.keep_only({"sha256:bb"})
    assert layers.get("sha256:aa") is None
    assert layers.get("sha256:bb") is not None


def test_nothing_but_layers_is_left_in_the_folder(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layers.add("sha256:aa", compressed(tmp_path, b"1"))
    assert [path.name for path in (tmp_path / "layers").iterdir()] == ["aa"]
