"""From sources to an image in the storage, an archive in the cache and, where asked for, a registry."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from imagebuild import archive, deps, keys, recipes, storage
from imagebuild.paths import ROOT, cache, locked
from imagebuild.process import BuildError, say
from imagebuild.recipes import Recipe

IMAGES = ("operator", "trainer")
SBOM = "usr/share/sbom/phitune.cdx.json"
"""In each image: what is in it."""
ARCHIVE = re.compile(rf"(?P<name>.+?)-(?P<content>[0-9a-f]{{{keys.KEY_LENGTH}}})(-.*)?\.tar")
NUM_KEPT = 3
"""Builds of each image that stay in the cache: the one in use, and two to go back to."""
TOOLS = (
    "buildah:buildah:builds the images",
    "debootstrap:debootstrap:makes the images' Debian",
    "cc:gcc:links the stand-ins for CUDA libraries",
    "nm:binutils:reads what CUDA libraries export",
    "unshare:util-linux:keeps mounts apart from the machine's",
)


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image and where it is."""

    name: str
    """operator, trainer, or one of a release."""
    reference: str
    """The name to put into a pod; in a registry if it was pushed."""
    archive: Path
    sbom: Path
    """The list of what is in it, as CycloneDX."""
    bytes: int
    """Size of the archive."""
    seconds: float
    was_there: bool
    """Nothing had changed since an earlier build."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "archive": str(self.archive), "sbom": str(self.sbom)}


def build(
    names: Sequence[str],
    *,
    tag: str | None,
    out: Path | None,
    registry: str | None,
    release_on: str | None = None,
    jobs: int = 1,
) -> list[Built]:
    """Build images. `tag` replaces the hash of the content as tag; `out`, a folder, gets copies.

    `release_on`, a base image: `names` are of a release and built on it, and `jobs` files compiled at a time.
    Raises BuildError. Goes on in a new mount namespace, so nothing must have been started before.
    """
    refuse_other_machines(platform.machine())
    if os.geteuid() != 0:
        raise BuildError("building images needs root: buildah and debootstrap mount file systems")
    if subprocess.run([ROOT / "hack" / "packages", *TOOLS], stdout=sys.stderr, check=False).returncode != 0:
        raise BuildError("the tools named above are needed to build images")
    storage.enter_private_mounts()
    with locked(cache()), storage.opened(cache() / "storage") as opened:
        _remove_interrupted(cache())
        built = []
        for name in names:
            make = partial(recipes.local, opened, name)
            if release_on:
                make = partial(recipes.release, name, release_on, jobs)
            built.append(_build(opened, make, tag=tag, out=out, registry=registry))
        _forget_old(opened)
    return built


def refuse_other_machines(machine: str) -> None:
    """Raise BuildError unless packages for this kind of machine are in the locks and named in the recipes."""
    if machine != deps.MACHINE:
        raise BuildError(
            f"this machine is {machine}, and hack/images builds for {deps.MACHINE} only. "
            "Build docker/*.Dockerfile with docker, or build on another machine"
        )


def _build(
    store: storage.Storage,
    make: Callable[[], Recipe],
    *,
    tag: str | None,
    out: Path | None,
    registry: str | None,
) -> Built:
    began = time.monotonic()
    recipe = make()
    name, content = recipe.name, recipe.content
    image = f"localhost/phitune/{name}:{content}"
    reference = f"localhost/{recipe.reference(tag or content)}"
    target = cache() / "archives" / f"{name}-{content}{f'-{tag}' if tag else ''}.tar"
    sbom = target.with_suffix(".cdx.json")
    was_there = target.exists() and sbom.exists() and store.has(image)
    if not was_there:
        say(f"{name}: our code")
        command = ["build", "--quiet", "--isolation", "chroot", "--format", "oci", "--timestamp", "0"]
        command += [*recipe.arguments, "--build-arg", f"REVISION={recipe.revision}"]
        store.buildah(*command, "--file", recipe.dockerfile, "--tag", image, ROOT, doing=f"building {image}")
        if make().content != content:
            store.remove(image)
            raise BuildError(f"{name}: a source file changed while it was copied; build again")
        archive.write(store, image, archive.Layers(cache() / "layers"), target, reference=reference)
        sbom.write_bytes(store.read(image, SBOM))
    os.utime(target)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        target = Path(shutil.copy(target, out / f"phitune-{name}.tar"))
        sbom = Path(shutil.copy(sbom, out / f"phitune-{name}.cdx.json"))
    if registry:
        reference = f"{registry.rstrip('/')}/{recipe.reference(tag or content)}"
        say(f"{name}: pushing {reference}")
        push(store, image, reference)
    return Built(
        name=name,
        reference=reference,
        archive=target,
        sbom=sbom,
        bytes=target.stat().st_size,
        seconds=round(time.monotonic() - began, 1),
        was_there=was_there,
    )


def push(store: storage.Storage, image: str, reference: str) -> None:
    """Push an image under a name. Raises BuildError; for what is wrong most often it says what to do."""
    try:
        store.buildah("push", "--quiet", image, f"docker://{reference}", doing=f"pushing {reference}")
    except BuildError as error:
        raise BuildError(f"{error}{advice(str(error), reference.partition('/')[0])}") from error


def advice(complaint: str, registry: str) -> str:
    """What to do about a registry's refusal, as a further line; empty where we know no better."""
    if "server gave HTTP response to HTTPS client" in complaint:
        return (
            f"\n{registry} speaks plain HTTP. To allow that, write into "
            f"/etc/containers/registries.conf.d/phitune.conf:\n"
            f'  [[registry]]\n  location = "{registry}"\n  insecure = true\n'
            "The nodes of the cluster need to be told as well, each runtime in its own way"
        )
    if re.search("authentication required|unauthorized|denied|forbidden", complaint, re.IGNORECASE):
        return f"\nTo log in: buildah login {registry}"
    if re.search("connection refused|no such host|i/o timeout|no route to host", complaint):
        return f"\nNo registry answers at {registry}: is the name right, and is it reached from here?"
    return ""


def _remove_interrupted(folder: Path) -> None:
    for pattern in ("packages-*", "archives/.new-*", "layers/.new-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _forget_old(store: storage.Storage) -> None:
    """Keep the newest builds of each image and the images that they stand on, and remove the rest."""
    archives = sorted(
        (cache() / "archives").glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    kept = newest([path.name for path in archives])
    for path in archives:
        if path.name not in kept:
            path.unlink()
            path.with_suffix(".cdx.json").unlink(missing_ok=True)
    present = {image: store.layers(image) for image in store.images()}
    tops = {f"localhost/phitune/{name}:{content}" for name, content in kept.values()}
    needed = [layers for image, layers in present.items() if image in tops]
    for image, layers in present.items():
        if not any(top[: len(layers)] == layers for top in needed):
            store.remove(image)
    archive.Layers(cache() / "layers").keep_only({digest for layers in needed for digest in layers})


def newest(archives: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of the names of archives, newest first, those to keep, each with its image's name and content."""
    kept: dict[str, tuple[str, str]] = {}
    for archive_name in archives:
        parsed = ARCHIVE.fullmatch(archive_name)
        if parsed and sum(name == parsed["name"] for name, _ in kept.values()) < NUM_KEPT:
            kept[archive_name] = parsed["name"], parsed["content"]
    return kept
