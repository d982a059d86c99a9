"""Writes the lock files in requirements/; with --check says where they disagree with pyproject.toml.

A lock names every package of an environment with one version and the hashes of its files, for every platform
and every Python that the project supports, and no place to fetch it from: that is the installer's to know.
requirements/dev.txt is resolved first, the others within it, so that tests run what the images hold.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
OLDEST_PYTHON = "3.11"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock file and what it is resolved from.

    >>> Lock(name="operator", extra="operator").file.name
    'operator.txt'
    """

    name: str
    extra: str | None = None
    """The extra of pyproject.toml, taken together with the project's own dependencies."""
    group: str | None = None
    """The dependency group of pyproject.toml; neither extra nor group: the packages in `literal`."""
    literal: tuple[str, ...] = ()
    torch: str | None = None
    """Version of torch, where it is not that of dev.txt; then what comes with torch differs, too."""
    alone: bool = False
    """Without what its packages depend on: that is in the lock they are installed beside."""

    @property
    def file(self) -> Path:
        """Where the lock is kept."""
        return FOLDER / f"{self.name}.txt"

    def requirements(self, project: Mapping[str, object]) -> list[Requirement]:
        """What the lock must satisfy, read from the parsed pyproject.toml; extras of our own are unfolded."""
        return [Requirement(line) for line in self._lines(project)]

    def _lines(self, project: Mapping[str, object]) -> list[str]:
        metadata = project["project"]
        groups = project["dependency-groups"]
        assert isinstance(metadata, dict)
        assert isinstance(groups, dict)
        if self.group:
            return list(groups[self.group])
        if self.extra:
            return [*metadata["dependencies"], *_unfold(metadata, self.extra)]
        return list(self.literal)


def _unfold(metadata: Mapping[str, dict[str, list[str]]], extra: str) -> Iterator[str]:
    for line in metadata["optional-dependencies"][extra]:
        own = re.fullmatch(r"phitune\[(\w+)\]", line)
        if own:
            yield from _unfold(metadata, own.group(1))
        else:
            yield line


LOCKS = (
    Lock(name="dev", extra="dev"),
    Lock(name="operator", extra="operator"),
    Lock(name="trainer", extra="trainer"),
    # The last torch with kernels for V100: docker/matrix.toml.
    Lock(name="trainer-v100", extra="trainer", torch="2.10.0"),
    Lock(name="docs", group="docs"),
    # Of the trainer's build with flash-attn: its sources, whose setup needs torch, and the compiler.
    Lock(name="flash-attn", literal=("flash-attn==2.8.3.post2",), alone=True),
    Lock(
        name="cuda-compiler",
        literal=("nvidia-cuda-crt==13.2.*", "nvidia-cuda-nvcc==13.2.*", "nvidia-nvvm==13.2.*", "wheel"),
        alone=True,
    ),
    # What builds our own wheel, and those that are published as source only (deepspeed).
    Lock(name="build", literal=("hatchling>=1.27", "editables", "setuptools", "wheel")),
    Lock(name="bootstrap", literal=("uv",)),
)


COMES_WITH_TORCH = re.compile(r"(torch$|triton$|setuptools$|nvidia-|cuda-)")
"""Packages whose versions torch chooses."""


def pins(text: str) -> dict[str, set[Version]]:
    """The versions of each package in a lock. Several, where markers choose between them."""
    found: dict[str, set[Version]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


def problems(
    lock: Lock, text: str, project: Mapping[str, object], dev: Mapping[str, set[Version]]
) -> list[str]:
    """What is wrong with a lock's text, in words. `dev` is what the widest lock pins."""
    where = f"requirements/{lock.file.name}"
    found = []
    pinned = pins(text)
    for need in lock.requirements(project):
        versions = pinned.get(canonicalize_name(need.name), set())
        if not versions or not all(need.specifier.contains(version) for version in versions):
            have = ", ".join(map(str, sorted(versions))) or "nothing"
            found.append(f"{where}: pyproject.toml asks for {need}, the lock has {have}; run `make lock`")
    found += [
        f"{where}: {name} is {sorted(map(str, versions))} here and {sorted(map(str, dev[name]))} in dev.txt; "
        "run `make lock`"
        for name, versions in pinned.items()
        if name in dev and versions != dev[name] and not (lock.torch and COMES_WITH_TORCH.match(name))
    ]
    found += [f"{where}: {name} has no hash" for name in _without_hash(text)]
    found += [
        f"{where}:{number}: names a place to fetch from ({line.strip()}); a lock must not"
        for number, line in enumerate(text.splitlines(), start=1)
        if "://" in line or re.match(r"\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", line)
    ]
    return found


def _without_hash(text: str) -> list[str]:
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return [entry.split("==")[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry]


def check() -> list[str]:
    """The problems of all lock files in the tree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dev = pins(LOCKS[0].file.read_text())
    return [line for lock in LOCKS for line in problems(lock, lock.file.read_text(), project, dev)]


def write(lock: Lock, *, upgrade: bool) -> None:
    """Resolve one lock. Versions in the file stay unless `upgrade` or pyproject.toml says otherwise."""
    command = [str(ROOT / "hack" / "uv"), "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-emit-index-url"]
    command += ["--custom-compile-command", "make lock", "--output-file", str(lock.file)]
    command += ["--upgrade"] if upgrade else []
    command += ["--no-deps"] if lock.alone else []
    constraints = _constraints(lock)
    command += ["--constraints", str(constraints)] if constraints else []
    if lock.group:
        command += ["--group", f"{ROOT / 'pyproject.toml'}:{lock.group}"]
    elif lock.extra:
        command += ["--extra", lock.extra, str(ROOT / "pyproject.toml")]
    else:
        command += ["-"]
    subprocess.run(command, input="\n".join(lock.literal), text=True, check=True, cwd=ROOT)


def _constraints(lock: Lock) -> Path | None:
    """A file of the versions that the lock is resolved within; None for the one that is resolved first."""
    if lock is LOCKS[0]:
        return None
    if lock.torch is None:
        return LOCKS[0].file
    lines = re.findall(r"^([A-Za-z0-9._-]+==[^\\\n]+)", LOCKS[0].file.read_text(), re.MULTILINE)
    kept = [line.strip() for line in lines if not COMES_WITH_TORCH.match(line.split("==")[0])]
    # Its name stands in the lock, which must not change from run to run.
    file = Path("build", f"{lock.name}-constraints.txt")
    (ROOT / file).parent.mkdir(exist_ok=True)
    (ROOT / file).write_text("\n".join([*kept, f"torch=={lock.torch}", ""]))
    return file


def main(argv: list[str]) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a lock is out of step"
    )
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows"
    )
    args = parser.parse_args(argv)
    if args.check:
        found = check()
        print("\n".join(found), end="\n" if found else "", file=sys.stderr)
        return 1 if found else 0
    for lock in LOCKS:
        print(f"locking requirements/{lock.file.name}", flush=True)
        write(lock, upgrade=args.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
