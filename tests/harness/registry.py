"""A container registry on this machine, for a cluster whose nodes pull from it over plain HTTP."""

from __future__ import annotations

import hashlib
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import Cluster, run, wait_for
from localkube.build import check_go, default_cache, go_environment
from localkube.paths import Paths

SOURCE = Path(__file__).with_name("registry_server")
"""A Go module with a few lines around an in-process registry; go.mod and go.sum pin the rest."""
PORT = 5000


@dataclass(frozen=True)
class Registry:
    """A registry at work."""

    address: str
    """HOST:PORT, as in the names of its images, for this machine and for the nodes."""
    environment: Mapping[str, str]
    """What buildah must be told to push to it."""

    def repositories(self) -> str:
        """The names in it, as JSON."""
        with urllib.request.urlopen(f"http://{self.address}/v2/_catalog", timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@contextmanager
def registry_of(cluster: Cluster, folder: Path) -> Iterator[Registry]:
    """A registry that a local cluster's nodes can pull from; what is pushed lies in the folder."""
    assert cluster.state is not None, "the nodes have to be on this machine"
    paths = Paths(cluster.state)
    address = f"{paths.load_running().host_address}:{PORT}"

    told = paths.registries / address / "hosts.toml"
    told.parent.mkdir(parents=True)
    told.write_text(f'server = "http://{address}"\n[host."http://{address}"]\n')
    rules = folder / "registries.conf"
    rules.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')

    blobs = folder / "blobs"
    blobs.mkdir()
    with subprocess.Popen([_program(), address, blobs], stderr=subprocess.PIPE, text=True) as server:
        try:
            registry = Registry(address, {"CONTAINERS_REGISTRIES_CONF": str(rules)})
            wait_for(lambda: _answers(registry, server), 10, lambda: f"no registry answers on {address}")
            yield registry
        finally:
            server.terminate()


def _answers(registry: Registry, server: subprocess.Popen[str]) -> bool:
    if server.poll() is not None:
        raise AssertionError(f"the registry ended: {server.communicate()[1]}")
    try:
        return "repositories" in registry.repositories()
    except OSError:
        return False


def _program() -> Path:
    """The built program, from the cache of hack/cluster's or made now."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    built = default_cache() / "tests" / f"registry-{digest.hexdigest()[:12]}"
    if not built.exists():
        go, _ = check_go()
        aside = built.with_name(f".{built.name}.{os.getpid()}")
        command = [str(go), "build", "-C", str(SOURCE), "-trimpath", "-buildvcs=false", "-o", str(aside), "."]
        run(command, env=go_environment(), timeout=600)
        aside.rename(built)
    return built
