"""What a folder of installed packages can lose before it becomes the CPU image's layer.

Nothing is removed that the trainer reads: the image is run by the end-to-end tests. The release image, built
with docker from the whole wheels, is not trimmed.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagebuild import standins
from imagebuild.paths import remove
from imagebuild.process import say

NOT_FOR_CPU = (
    "triton",
    "triton-*.dist-info",
    "nvidia/*/include",
    "nvidia/cu13/cccl",
    "nvidia/**/*.bc",
    "cuda",
    "cuda_bindings-*.dist-info",
    "cuda_pathfinder-*.dist-info",
    "bitsandbytes/libbitsandbytes_cuda*.so",
    "bitsandbytes/libbitsandbytes_rocm*.so",
    "bitsandbytes/libbitsandbytes_xpu*.so",
)
NOT_AT_RUN_TIME = (
    "bin",
    "share",
    "torch/bin/protoc*",
    "torch/include",
    "torch/share",
    "**/*.a",
    "**/*.pyi",
    "**/tests",
    "torch/testing/_internal/py312_intrinsics.py",  # cannot be compiled by an older Python
)
GPU_LIBRARIES_THAT_STAY = (
    "libcudart.so.*",  # says "no GPU", as it should
    "libcudnn.so.*",  # a small front of the real ones, which it loads at the first call
    "libcufile.so.*",
    "libcupti.so.*",
)
"""Small, and called even without a GPU."""


def trim(site: Path) -> None:
    """Remove from a site-packages folder what a CPU image does not need; CUDA libraries get stand-ins."""
    for pattern in (*NOT_FOR_CPU, *NOT_AT_RUN_TIME):
        for path in list(site.glob(pattern)):
            remove(path)
    if (site / "nvidia").is_dir():
        _shrink_gpu_libraries(site)
    for record in sorted(site.glob("*.dist-info/RECORD")):
        _forget_what_is_gone(record)


def _forget_what_is_gone(record: Path) -> None:
    """Leave out of a package's list of files what was removed.

    Of a script it has the hash, which depends on where the Python of this checkout lies.
    """
    lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
    there = [line for line in lines if (record.parents[1] / next(csv.reader([line]))[0]).exists()]
    record.write_text("".join(there), encoding="utf-8")


def _shrink_gpu_libraries(site: Path) -> None:
    gpu = [path for path in _shared_libraries(site) if "nvidia" in path.relative_to(site).parts]
    stay = [path for path in gpu if any(path.match(pattern) for pattern in GPU_LIBRARIES_THAT_STAY)]
    users = [*stay, *(path for path in _shared_libraries(site) if path not in gpu)]
    needs = {user: standins.read_library(user).needed for user in users}
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(set(gpu) - set(stay)):
            soname = standins.read_library(path).soname
            callers = [user for user in users if soname in needs[user]]
            if callers:
                count = standins.replace(path, users=callers, scratch=Path(scratch))
                say(f"  {path.name}: a stand-in with {count} names")
            else:
                path.unlink()
    for path in site.glob("torch/lib/libtorch_cuda*.so"):
        standins.blank_gpu_code(path)


def _shared_libraries(site: Path) -> Iterator[Path]:
    for path in sorted(site.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and _is_elf(path):
            yield path


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
