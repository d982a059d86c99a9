"""Writing OCI image archives, and cutting known blobs out of one.

An archive is a tar of blobs named by their SHA-256 with an `index.json` on top. A static program needs no
base image, so one layer written here replaces a Dockerfile, a builder and a registry.
"""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .console import ClusterError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"

NAME_ANNOTATION = "io.containerd.image.name"
REFERENCE_ANNOTATION = "org.opencontainers.image.ref.name"

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class File:
    """A file of a layer, its content taken from `source`."""

    path: str
    source: Path
    mode: int = 0o755


@dataclass(frozen=True)
class Folder:
    """A folder of a layer."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True)
class Link:
    """A symbolic link of a layer."""

    path: str
    target: str


Entry = File | Folder | Link


def write_archive(target: Path, name: str, entries: Sequence[Entry], config: Mapping[str, Any]) -> str:
    """One image of one layer, the same bytes for the same input; returns the digest of its manifest."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        layer_path = Path(folder) / "layer"
        _write_layer(layer_path, entries)
        with layer_path.open("rb") as stream:
            layer_digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        target_platform = {"architecture": architecture(), "os": "linux"}
        rootfs = {"type": "layers", "diff_ids": [layer_digest]}
        config_blob = _json({**target_platform, "config": dict(config), "rootfs": rootfs})
        manifest_blob = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, digest_of(config_blob), len(config_blob)),
                "layers": [_descriptor(LAYER, layer_digest, layer_path.stat().st_size)],
            }
        )
        manifest = _descriptor(MANIFEST, digest_of(manifest_blob), len(manifest_blob))
        named = {**manifest, "annotations": {NAME_ANNOTATION: name}}
        aside = Path(folder) / "archive"
        with tarfile.open(aside, "w") as archive:
            _add_bytes(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add_bytes(
                archive, "index.json", _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})
            )
            for blob in (manifest_blob, config_blob):
                _add_bytes(archive, blob_path(digest_of(blob)), blob)
            with layer_path.open("rb") as stream:
                _add(archive, blob_path(layer_digest), stream, layer_path.stat().st_size)
        aside.replace(target)
    return str(manifest["digest"])


def architecture() -> str:
    """The machine's, in Go's words."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _write_layer(target: Path, entries: Sequence[Entry]) -> None:
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as layer:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            if isinstance(entry, File):
                info.mode, info.size = entry.mode, entry.source.stat().st_size
                with entry.source.open("rb") as stream:
                    layer.addfile(info, stream)
            elif isinstance(entry, Folder):
                info.type, info.mode = tarfile.DIRTYPE, entry.mode
                layer.addfile(info)
            else:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
                layer.addfile(info)


def digest_of(blob: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def blob_path(digest: str) -> str:
    """Where an archive has a blob."""
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    _add(archive, name, io.BytesIO(content), len(content))


def _add(archive: tarfile.TarFile, name: str, stream: IO[bytes], size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, stream)


@dataclass(frozen=True)
class Archive:
    """An opened OCI archive."""

    tar: tarfile.TarFile
    images: Mapping[str, str]
    """Name to digest of what the name stands for."""
    index: Mapping[str, Any]

    def write_without(self, held: frozenset[str], target: IO[bytes]) -> int:
        """The same archive without the blobs in `held`; the size of the blobs that are left.

        Manifests and configurations stay: they are small, and an importer starts from them.
        """
        kept = 0
        with tarfile.open(fileobj=target, mode="w|") as output:
            _add_bytes(output, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add_bytes(output, "index.json", _json(self.index))
            for member in self.tar:
                digest = _digest_from(member.name)
                if not member.isfile() or digest is None:
                    continue
                if digest in held and member.size > SMALL:
                    continue
                stream = self.tar.extractfile(member)
                assert stream is not None, "a regular file has content"
                _add(output, blob_path(digest), stream, member.size)
                kept += member.size
        return kept


SMALL = 256 * 1024
"""Larger than any manifest or configuration, smaller than a layer worth sparing."""


def _digest_from(name: str) -> str | None:
    parts = name.removeprefix("./").split("/")
    return f"{parts[1]}:{parts[2]}" if len(parts) == 3 and parts[0] == "blobs" else None


@contextmanager
def open_archive(path: Path, name: str | None = None) -> Iterator[Archive]:
    """Read an archive's index. `name` replaces the names in it, which must be full (localhost/NAME:TAG)."""
    if not path.is_file():
        raise ClusterError(f"{path}: no such file", exit_code=2)
    with _uncompressed(path) as plain:
        if not tarfile.is_tarfile(plain):
            raise ClusterError(f"{path}: not a tar archive", exit_code=2)
        with tarfile.open(plain) as tar:
            member = next((member for member in tar if member.name.removeprefix("./") == "index.json"), None)
            if member is None:
                raise ClusterError(
                    f"{path}: no index.json, so not an OCI archive. Make one with "
                    "`buildah push IMAGE oci-archive:FILE:NAME` or `docker save` of Docker 25 or newer.",
                    exit_code=2,
                )
            stream = tar.extractfile(member)
            assert stream is not None, "index.json is a regular file"
            index = named_index(json.load(stream), path, name)
            images = {entry["annotations"][NAME_ANNOTATION]: entry["digest"] for entry in index["manifests"]}
            yield Archive(tar, images, index)


def named_index(index: Mapping[str, Any], path: Path, name: str | None) -> dict[str, Any]:
    """The index with every image's full name where containerd looks for it."""
    manifests = index["manifests"]
    if name is not None and len(manifests) != 1:
        raise ClusterError(f"{path}: holds {len(manifests)} images, so one name is not enough", exit_code=2)
    named = []
    for entry in manifests:
        annotations = entry.get("annotations", {})
        wanted = name or annotations.get(NAME_ANNOTATION) or annotations.get(REFERENCE_ANNOTATION, "")
        if not is_full_name(wanted):
            raise ClusterError(
                f"{path}: image name {wanted!r} is not full. Give --image localhost/NAME:TAG, or name it "
                "when writing: `buildah push IMAGE oci-archive:FILE:localhost/NAME:TAG`.",
                exit_code=2,
            )
        named.append({**entry, "annotations": {**annotations, NAME_ANNOTATION: wanted}})
    return {**index, "manifests": named}


def is_full_name(name: str) -> bool:
    """With a registry and a tag, as the kubelet will ask for it."""
    registry, slash, rest = name.partition("/")
    has_registry = registry == "localhost" or "." in registry or ":" in registry
    return bool(slash) and has_registry and (":" in rest)


@contextmanager
def _uncompressed(path: Path) -> Iterator[Path]:
    """tarfile reads gzip itself; for zstd the program of that name unpacks beside."""
    with path.open("rb") as stream:
        is_zstd = stream.read(4) == _ZSTD_MAGIC
    if not is_zstd:
        yield path
        return
    if shutil.which("zstd") is None:
        raise ClusterError(f"{path}: compressed as a whole, which needs the program zstd", 2)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "archive"
        subprocess.run(["zstd", "-q", "-d", path, "-o", plain], check=True)
        yield plain
