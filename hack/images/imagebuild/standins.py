"""Small stand-ins for the CUDA libraries that torch loads and a machine without a GPU never calls.

`import torch` binds every name of the libraries it is linked with, so they must be there and export those
names; what the names do does not matter where there is no GPU. A stand-in exports the names that are asked
for, under the library's own name and symbol versions, as functions that return 1 (an error to every CUDA
library). 1.6 GB become a few hundred KB. For local development on a CPU only: on a GPU every call would fail.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuild.process import run

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Library:
    """What the dynamic linker sees of a shared library."""

    soname: str
    needed: frozenset[str]
    """SONAMEs of the libraries that it loads."""


def read_library(path: Path) -> Library:
    """Read names from a shared library. Raises BuildError if it is none."""
    text = run(["readelf", "--dynamic", "--wide", path], doing=f"reading {path.name}")
    soname = re.search(r"\(SONAME\).*\[(.+)\]", text)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    return Library(soname=soname.group(1) if soname else path.name, needed=frozenset(needed))


def parse_symbols(listing: str) -> dict[str, str]:
    """Names and their versions ("" for none) from the output of `nm --format=posix --with-symbol-versions`.

    A name that is listed with and without a version is taken with it: the dynamic linker aborts otherwise.
    """
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, version = line.split()[0].partition("@")
        if version or name not in found:
            found[name] = version.lstrip("@")
    return found


def symbols(path: Path, *, defined: bool) -> dict[str, str]:
    """The dynamic symbols that a library offers, or (not `defined`) asks others for."""
    which = "--defined-only" if defined else "--undefined-only"
    command: list[str | Path] = ["nm", "--dynamic", "--format=posix", "--with-symbol-versions", which, path]
    return parse_symbols(run(command, doing=f"listing the symbols of {path.name}"))


def source(names: Iterable[str]) -> str:
    """C source of functions with these names."""
    return "".join(f"int {name}(void) {{ return 1; }}\n" for name in sorted(names))


def version_script(versions: Mapping[str, str]) -> str:
    """The linker's version script that gives each name its version; only versioned names are in it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, version in versions.items():
        if version:
            groups[version].append(name)
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(names))} }};\n"
        for version, names in sorted(groups.items())
    )


def replace(library: Path, *, users: Iterable[Path], scratch: Path) -> int:
    """Put a stand-in in place of a library, for the names that `users` ask for; returns how many names.

    The file is replaced by a new one, never written to: it may be a hard link into the installer's cache.
    """
    wanted = {name for user in users for name in symbols(user, defined=False)}
    offered = {name: version for name, version in symbols(library, defined=True).items() if name in wanted}
    code, script, out = scratch / "standin.c", scratch / "standin.map", scratch / "standin.so"
    code.write_text(source(offered))
    script.write_text(version_script(offered))
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-Os",
        "-s",
        "-nostdlib",
        f"-Wl,-soname,{read_library(library).soname}",
    ]
    # The functions may have the names of things that the compiler knows; that is no concern of a stand-in's.
    command += ["-fno-builtin", "-w"]
    command += [f"-Wl,--version-script,{script}"] if script.stat().st_size else []
    run([*command, "-o", str(out), str(code)], doing=f"linking a stand-in for {library.name}")
    library.unlink()
    out.rename(library)
    return len(offered)


def blank_gpu_code(library: Path) -> None:
    """Overwrite a library's compiled GPU kernels, if it has any, with zeros: they compress to nothing.

    The file is replaced by a new one, never written to, as in `replace`.
    """
    text = run(["readelf", "--section-headers", "--wide", library], doing=f"reading {library.name}")
    section = re.search(r"\.nv_fatbin\s+PROGBITS\s+\w+\s+(\w+)\s+(\w+)", text)
    if not section:
        return
    offset, size = (int(number, 16) for number in section.groups())
    blank = library.with_name(f"{library.name}.blank")
    shutil.copy(library, blank)
    with blank.open("r+b") as file:
        file.seek(offset)
        for done in range(0, size, CHUNK):
            file.write(bytes(min(CHUNK, size - done)))
    blank.replace(library)
