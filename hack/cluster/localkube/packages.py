"""The system's own programs that a cluster needs: on Debian and Ubuntu installed, elsewhere named."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import ClusterError, Console
from .shell import SEARCH_PATH


@dataclass(frozen=True)
class Need:
    """A program that must be installed."""

    program: str
    package: str
    """Name in Debian and Ubuntu."""
    purpose: str


NEEDS: Sequence[Need] = (
    Need("runc", "runc", "starts containers"),
    Need("iptables", "iptables", "services (kube-proxy) and host ports"),
    Need("ip", "iproute2", "the network between the nodes"),
    Need("nsenter", "util-linux", "entering a node's namespaces"),
    Need("unshare", "util-linux", "making a node's namespaces"),
    Need("mount", "mount", "volumes of pods"),
    Need("openssl", "openssl", "certificates"),
    Need("busybox", "busybox-static", "the image of init containers and tests; must be the static one"),
)


def missing() -> list[Need]:
    """What is not installed."""
    return [need for need in NEEDS if not _is_there(need)]


def _is_there(need: Need) -> bool:
    found = shutil.which(need.program, path=SEARCH_PATH)
    return found is not None and (need.program != "busybox" or is_static(Path(found)))


def ensure(console: Console) -> None:
    """Install what is missing, where that is possible."""
    absent = missing()
    if not absent:
        return
    listed = "\n".join(
        f"  {need.program:<10} {need.purpose} (Debian package {need.package})" for need in absent
    )
    apt = shutil.which("apt-get")
    if apt is None:
        raise ClusterError(f"these programs are needed and not installed:\n{listed}", exit_code=2)
    packages = sorted({need.package for need in absent})
    console.step(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run([apt, *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip()[-1000:]
            raise ClusterError(
                f"apt-get {command[0]} failed; install by hand:\n{listed}\n{words}", exit_code=2
            )
    still = missing()
    if still:
        names = ", ".join(need.program for need in still)
        raise ClusterError(
            f"installed {', '.join(packages)}, but there is still no usable {names}", exit_code=2
        )


def program(name: str) -> Path:
    """Where an installed program is."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise ClusterError(f"{name} is not installed", exit_code=2)
    return Path(found)


def is_static(path: Path) -> bool:
    """An ELF program without a PT_INTERP header needs no loader, so it runs in an empty image."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    start = int.from_bytes(data[32:40], "little")
    size = int.from_bytes(data[54:56], "little")
    count = int.from_bytes(data[56:58], "little")
    kinds = [int.from_bytes(data[start + n * size : start + n * size + 4], "little") for n in range(count)]
    return 3 not in kinds
