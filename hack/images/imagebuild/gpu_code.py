"""For which GPUs libraries were compiled, read from the libraries; the standard library is enough.

As a program, `gpu_code.py MATRIX BUILD SITE_PACKAGES`, it fails unless an image has kernels for every
architecture that the matrix names for its build. The Dockerfile runs it: no image comes to be which placement
would send to a card that it does not run on.
"""

from __future__ import annotations

import mmap
import struct
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

Architecture = tuple[int, int]
"""A compute capability, major and minor."""

SECTION = b".nv_fatbin"
MAGIC = 0xBA55ED50
MACHINE_CODE = 2
"""The kind of an entry that a card runs as it is; PTX, which the driver would have to compile first, is 1."""


def architectures(library: Path) -> set[Architecture]:
    """The compute capabilities that a library was compiled for. Raises ValueError if it is no ELF library.

    Single kernels for others, of which torch has some, do not count.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = Counter(code for start, end in _sections(data) for code in _entries(data, start, end))
    most = max(found.values(), default=0)
    return {divmod(code, 10) for code, count in found.items() if 2 * count >= most}


def _sections(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where GPU code begins and ends in a library."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a library for 64-bit Linux")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    (name_table,) = struct.unpack_from("<Q", data, table + names * size + 24)
    for number in range(count):
        (name,) = struct.unpack_from("<I", data, table + number * size)
        start, length = struct.unpack_from("<QQ", data, table + number * size + 24)
        begin = name_table + name
        if data[begin : begin + len(SECTION) + 1] == SECTION + b"\0":
            yield start, start + length


def _entries(data: mmap.mmap, start: int, end: int) -> Iterator[int]:
    """The architecture, such as 80, of each piece of machine code between two offsets."""
    while start < end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, start)
        if magic != MAGIC:
            # Between two containers there may be padding.
            start += 8
            continue
        entry, stop = start + header, start + header + length
        while entry < stop:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, entry)
            if kind == MACHINE_CODE:
                yield struct.unpack_from("<I", data, entry + 28)[0]
            entry += entry_header + payload
        start = stop


def missing(needed: set[Architecture], compiled: set[Architecture]) -> set[Architecture]:
    """Those whose cards would find nothing: code runs on cards of its major version, from its minor up."""
    return {
        (major, minor)
        for major, minor in needed
        if not any(have == major and low <= minor for have, low in compiled)
    }


def problems(matrix: Path, build: str, site: Path) -> list[str]:
    """What an installation lacks for a build of the matrix, in words. FileNotFoundError: a library."""
    row = tomllib.loads(matrix.read_text(encoding="utf-8"))[build]
    needed = {_architecture(text) for text in row["architectures"]}
    libraries = [
        site / "torch" / "lib" / "libtorch_cuda.so",
        site / "bitsandbytes" / f"libbitsandbytes_cuda{row['cuda'].replace('.', '')}.so",
    ]
    if "flash-attn" in row:
        libraries += sorted(site.glob("flash_attn_2_cuda*.so")) or [site / "flash_attn_2_cuda.so"]
    found = []
    for library in libraries:
        lacking = missing(needed, architectures(library))
        names = ", ".join(f"{major}.{minor}" for major, minor in sorted(lacking))
        if names:
            found.append(f"{library.name} has no code for {names}, which build {build} is meant for")
    return found


def _architecture(text: str) -> Architecture:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


if __name__ == "__main__":
    if lacks := problems(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])):
        sys.exit("\n".join(lacks))
