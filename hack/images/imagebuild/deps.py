"""The dependency image: the base and the Python packages of one lock file, compiled for a read-only disk."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from pathlib import Path

from imagebuild import base, standins, trim
from imagebuild.keys import files_key, key
from imagebuild.paths import ROOT, cache
from imagebuild.process import run, say
from imagebuild.storage import Storage

SITE_PACKAGES = f"usr/local/lib/python{base.PYTHON}/dist-packages"
MACHINE = "x86_64"
# Debian bookworm has glibc 2.36, so wheels may ask for that.
PLATFORM = f"{MACHINE}-manylinux_2_36"
SAME_EACH_TIME = ("env", "PYTHONHASHSEED=0")
"""Before commands that build or compile: sets of texts are written in the order of their hashes."""


def build(storage: Storage, image: str) -> str:
    """Make the dependency image of `image` ("operator", "trainer") unless it is there; returns its name."""
    lock = ROOT / "requirements" / lock_of(image)
    build_lock = ROOT / "requirements" / "build.txt"
    below = base.build(storage)
    recipe = [Path(__file__), Path(str(trim.__file__)), Path(str(standins.__file__)), lock, build_lock]
    name = f"localhost/phitune/{image}-deps:{key(below, files_key(ROOT, recipe))}"
    if not storage.has(name):
        say(f"{image}: the packages of requirements/{lock.name}")
        # In the cache, not in /tmp: beside the installer's cache, packages are hard links.
        with tempfile.TemporaryDirectory(dir=cache(), prefix="packages-") as scratch:
            site = Path(scratch) / "site"
            install(lock, build_lock, site)
            trim.trim(site)
            with storage.new_image(name, on=below) as draft:
                shutil.copytree(site, draft.root / SITE_PACKAGES, symlinks=True, dirs_exist_ok=True)
                # Unchecked bytecode holds whatever time stamps the files get on their way to a node. By one
                # process: what is shared within bytecode depends on what a process has compiled before.
                compileall = [*SAME_EACH_TIME, "python3", "-m", "compileall", "-q"]
                compileall += ["--invalidation-mode", "unchecked-hash", f"/{SITE_PACKAGES}"]
                draft.run(*compileall, doing="compiling Python files")
    return name


def lock_of(image: str) -> str:
    """File of requirements/ with the image's packages; of the trainer, those of the build that CPUs use."""
    if image != "trainer":
        return f"{image}.txt"
    builds = tomllib.loads((ROOT / "docker" / "matrix.toml").read_text())
    return str(builds["plain"]["lock"])


def install(lock: Path, build_lock: Path, site: Path) -> None:
    """Install a lock's packages into a folder, for the base image's Python, whichever Python runs this."""
    command: list[str | Path] = [*SAME_EACH_TIME, ROOT / "hack" / "uv", "pip", "install", "--quiet"]
    command += ["--target", site]
    command += [
        "--no-deps",
        "--require-hashes",
        "--python-version",
        base.PYTHON,
        "--python-platform",
        PLATFORM,
    ]
    command += ["--build-constraints", build_lock, "-r", lock]
    run(command, doing="installing Python packages")
