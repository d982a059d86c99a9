"""What hack/images builds: our two images, each in an archive."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from .console import Command, Console

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Image:
    """An image by its full name, and the archive that holds it."""

    reference: str
    archive: str

    @property
    def repository(self) -> str:
        """The name without its tag."""
        return self.reference.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The tag alone."""
        return self.reference.rpartition(":")[2]


@dataclass(frozen=True)
class Images:
    """Both images."""

    operator: Image
    trainer: Image


def start_build(console: Console, *options: str, prefix: str = "") -> Command:
    """Start to build both images; `images_of` reads the result."""
    argv = [sys.executable, str(REPOSITORY / "hack/images"), "build", "--json", *options]
    return Command(console, argv, prefix=prefix, has_result=True)


def images_of(build: Command) -> Images:
    """What a finished build has made."""
    built = {
        image["name"]: Image(image["reference"], image["archive"]) for image in json.loads(build.result())
    }
    return Images(built["operator"], built["trainer"])
