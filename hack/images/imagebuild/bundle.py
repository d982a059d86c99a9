"""One archive for a cluster without a way out: images, what is in them, chart, CRDs, and how to load them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagebuild.archive import INDEX
from imagebuild.build import Built
from imagebuild.paths import ROOT
from imagebuild.process import say

SUMS = "SHA256SUMS"
LOAD = ROOT / "hack" / "images" / "load"
"""The script that goes into it."""


def write(built: Sequence[Built], target: Path) -> None:
    """Write a bundle of these images; `target` appears only when it is whole."""
    chart = ROOT / "charts" / "phitune"
    (version,) = re.findall(r"^version: (\S+)$", (chart / "Chart.yaml").read_text(), re.MULTILINE)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, images = target.with_suffix(".new"), target.with_suffix(".images")
    try:
        names = merge([image.archive for image in built], images)
        files: dict[str, Path | bytes] = {
            "images.tar": images,
            f"phitune-{version}.tgz": packaged_chart(chart),
            **{f"crds/{path.name}": path for path in sorted((ROOT / "crds").glob("*.yaml"))},
            **{f"sbom/{image.name}.cdx.json": image.sbom for image in built},
            "images.txt": "".join(f"{name}\n" for name in names).encode(),
            "load": LOAD,
        }
        say(f"writing {target}")
        with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            sums = "".join(f"{_put(tar, name, content)}  {name}\n" for name, content in files.items())
            _put(tar, SUMS, sums.encode())
        partial.rename(target)
    finally:
        images.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def merge(archives: Sequence[Path], target: Path) -> list[str]:
    """Write several OCI archives as one, in which what they share lies once; the names of its images.

    Those are not where an image was pushed to, if it was.
    """
    manifests: list[Any] = []
    written: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as out:
        for archive in archives:
            with tarfile.open(archive) as tar:
                for name, member, file in _files(tar):
                    if name == "index.json":
                        manifests += json.load(file)["manifests"]
                    elif name not in written:
                        written.add(name)
                        out.addfile(_info(name, member.size), file)
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
        out.addfile(_info("index.json", len(index)), io.BytesIO(index))
    return [str(one["annotations"]["io.containerd.image.name"]) for one in manifests]


def packaged_chart(folder: Path) -> bytes:
    """A chart as `helm package` packs it, but the same bytes for the same content."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            tar.addfile(_info(f"{folder.name}/{path.relative_to(folder)}", len(content)), io.BytesIO(content))
    return packed.getvalue()


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo, Any]]:
    for member in tar:
        if member.isfile():
            yield member.name.removeprefix("./"), member, tar.extractfile(member)


def _put(tar: tarfile.TarFile, name: str, content: Path | bytes) -> str:
    """Add a file; returns the hex SHA-256 of its bytes."""
    if isinstance(content, bytes):
        tar.addfile(_info(name, len(content)), io.BytesIO(content))
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        info = _info(name, content.stat().st_size)
        info.mode = content.stat().st_mode & 0o755
        tar.addfile(info, file)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info
