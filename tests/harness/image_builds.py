"""Builds of images that begin with nothing of what earlier ones have made."""

from __future__ import annotations

import os
from pathlib import Path

from harness.cluster import run
from imagebuild import base, keys, paths


def empty_cache(folder: Path) -> dict[str, str]:
    """Variables of a build that finds the installer's files and the image of Debian, and nothing of ours.

    The image of Debian is that of an earlier build with the usual cache.
    """
    known, cache = paths.cache(), folder / "phitune"
    (cache / "images").mkdir(parents=True)
    (cache / "tools").symlink_to(known.parent / "tools")
    debian = f"localhost/phitune/base:{keys.key(Path(base.__file__).read_bytes())}"
    buildah = f"buildah --storage-driver overlay --runroot {folder}/run --root"
    script = f"""
        {buildah} {known}/storage push --quiet {debian} oci:{folder}/debian:it
        id=$({buildah} {cache}/images/storage pull --quiet oci:{folder}/debian:it)
        {buildah} {cache}/images/storage tag "$id" {debian}
    """
    with paths.locked(known):
        run(["unshare", "--mount", "--propagation", "private", "bash", "-euc", script])
    installer = os.environ.get("UV_CACHE_DIR") or str(known.parents[1] / "uv")
    return {"XDG_CACHE_HOME": str(folder), "UV_CACHE_DIR": installer}
