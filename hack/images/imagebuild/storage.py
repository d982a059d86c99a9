"""buildah with a storage of our own, inside the cache: the machine's own images are left alone."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.process import run

PRIVATE_MOUNTS = "PHITUNE_IMAGES_PRIVATE_MOUNTS"


def enter_private_mounts() -> None:
    """Go on as the same program in a mount namespace of its own: mounts end with it, however it ends."""
    if os.environ.get(PRIVATE_MOUNTS) != str(os.getpid()):
        # The process keeps its number when it becomes `unshare` and then Python again.
        os.environ[PRIVATE_MOUNTS] = str(os.getpid())
        again = [sys.executable, *sys.orig_argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *again])


class Storage:
    """Images and working containers in a folder. One process at a time (see `paths.locked`)."""

    def __init__(self, root: Path, runroot: Path) -> None:
        self._prefix = [
            "buildah",
            "--root",
            str(root),
            "--runroot",
            str(runroot),
            "--storage-driver",
            "overlay",
        ]

    def buildah(self, *arguments: str | Path, doing: str) -> str:
        """Run one buildah command; returns its output without the line end. Raises BuildError."""
        return run([*self._prefix, *arguments], doing=doing).strip()

    def has(self, image: str) -> bool:
        """Whether an image of this name is in the storage."""
        return image in self.images()

    def images(self) -> dict[str, str]:
        """The names in the storage and the id of the image behind each."""
        listing = json.loads(self.buildah("images", "--json", doing="listing images") or "null")
        return {name: image["id"] for image in listing or [] for name in image.get("names") or []}

    def layers(self, image: str) -> list[str]:
        """The digests of an image's uncompressed layers, lowest first."""
        found = json.loads(self.buildah("inspect", "--type", "image", image, doing=f"reading {image}"))
        return [str(digest) for digest in found["OCIv1"]["rootfs"]["diff_ids"]]

    def read(self, image: str, path: str) -> bytes:
        """A file of an image, `path` without the first slash. Raises FileNotFoundError."""
        container = self.buildah("from", image, doing=f"opening {image}")
        try:
            root = self.buildah("mount", container, doing=f"mounting {image}")
            return Path(root, path).read_bytes()
        finally:
            self.buildah("rm", container, doing=f"closing {image}")

    def remove(self, image: str) -> None:
        """Forget a name; layers that no other image uses go with it."""
        self.buildah("rmi", image, doing=f"removing {image}")

    def remove_working_containers(self) -> None:
        """Remove what an interrupted build left."""
        self.buildah("rm", "--all", doing="removing interrupted builds")

    @contextlib.contextmanager
    def new_image(self, name: str, *, on: str, config: Sequence[str] = ()) -> Iterator[Draft]:
        """Build an image by writing into a draft's folder; it gets its name only if nothing fails."""
        container = self.buildah("from", on, doing=f"starting {name}")
        try:
            root = self.buildah("mount", container, doing=f"mounting {name}")
            yield Draft(storage=self, container=container, root=Path(root))
            self.buildah("unmount", container, doing=f"unmounting {name}")
            if config:
                self.buildah("config", *config, container, doing=f"describing {name}")
            self.buildah(
                "commit", "--quiet", "--timestamp", "0", container, name, doing=f"writing the layer of {name}"
            )
        finally:
            self.buildah("rm", container, doing=f"leaving {name}")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An image in the making."""

    storage: Storage
    container: str
    root: Path
    """Its root folder."""

    def run(self, *command: str, doing: str) -> None:
        """Run a command inside. Raises BuildError."""
        self.storage.buildah("run", "--isolation", "chroot", self.container, "--", *command, doing=doing)


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Storage]:
    """The storage in `root`, made if need be, free of what earlier interrupted builds left."""
    root.mkdir(parents=True, exist_ok=True)
    # A new folder for what is mounted now: buildah would believe an old one's list, whose mounts are gone.
    with tempfile.TemporaryDirectory(prefix="phitune-images-") as runroot:
        storage = Storage(root, Path(runroot))
        storage.remove_working_containers()
        yield storage
