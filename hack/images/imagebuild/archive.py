"""OCI archives of images in the storage, with each layer compressed once.

buildah compresses all layers again for every archive, ten seconds for the trainer's. Here layers are kept in
the cache as zstd files under the digest of their content, and an archive after a change to the code
compresses only the code's layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuild.storage import Storage

ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A compressed layer in the cache."""

    file: Path
    """Named by the hex SHA-256 of its compressed bytes."""

    @property
    def descriptor(self) -> dict[str, Any]:
        """The layer as a manifest names it."""
        return {
            "mediaType": ZSTD_LAYER,
            "digest": f"sha256:{self.file.name}",
            "size": self.file.stat().st_size,
        }


class Layers:
    """Compressed layers in a folder: LAYER/COMPRESSED, both hex SHA-256 digests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, digest: str) -> Layer | None:
        """The layer whose uncompressed content has this digest ("sha256:..."), if it is kept."""
        files = list((self._folder / _hex(digest)).glob("*"))
        return Layer(file=files[0]) if files else None

    def add(self, digest: str, packed: Path) -> Layer:
        """Keep a compressed file, named by its digest, for a layer; a half-written one is never seen."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".new-") as scratch:
            new, final = Path(scratch) / "layer", self._folder / _hex(digest)
            new.mkdir()
            packed.rename(new / packed.name)
            new.rename(final)
        return Layer(file=final / packed.name)

    def keep_only(self, digests: set[str]) -> None:
        """Remove all layers but these."""
        for folder in self._folder.iterdir():
            if f"sha256:{folder.name}" not in digests:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()


def write(storage: Storage, image: str, layers: Layers, target: Path, *, reference: str) -> None:
    """Write an image as an OCI archive that calls it `reference`; `target` appears only when it is whole."""
    digests = storage.layers(image)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
        blobs = Path(scratch) / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest in digests:
            if layers.get(digest):
                # buildah leaves out a layer whose file is there, and does not look into it.
                (blobs / _hex(digest)).touch()
        push = ["push", "--quiet", "--compression-format", "zstd", "--format", "oci", image, f"oci:{scratch}"]
        storage.buildah(*push, doing=f"compressing {image}")
        index = json.loads((Path(scratch) / "index.json").read_text())
        manifest = json.loads((blobs / _hex(index["manifests"][0]["digest"])).read_text())
        config = (blobs / _hex(manifest["config"]["digest"])).read_bytes()
        kept = [
            layers.get(digest) or layers.add(digest, blobs / _hex(written["digest"]))
            for digest, written in zip(digests, manifest["layers"], strict=True)
        ]
        partial = Path(scratch) / "archive"
        _write_tar(partial, reference, manifest, config, kept)
        partial.rename(target)


def _write_tar(
    target: Path, reference: str, manifest: Mapping[str, Any], config: bytes, layers: Sequence[Layer]
) -> None:
    packed = _json(
        {
            **manifest,
            "mediaType": MANIFEST,
            "layers": [layer.descriptor for layer in layers],
            # Of what the image stands on they have a digest that is this machine's storage's own.
            "annotations": {},
        }
    )
    digest = hashlib.sha256(packed).hexdigest()
    # One name for each of those who read it: containerd, and tools that follow the specification.
    names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
    entry = {"mediaType": MANIFEST, "digest": f"sha256:{digest}", "size": len(packed), "annotations": names}
    index = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        _add(tar, f"blobs/sha256/{digest}", packed)
        _add(tar, f"blobs/sha256/{_hex(manifest['config']['digest'])}", config)
        for layer in {layer.file.name: layer for layer in layers}.values():
            tar.add(layer.file, f"blobs/sha256/{layer.file.name}")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
