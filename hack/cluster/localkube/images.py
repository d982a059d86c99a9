"""The images that a cluster starts with, and importing images into the nodes.

Every node has its own store, as every machine has, so an image goes to each. Blobs that a node holds already
are left out of what it is sent: after a change of code that is all but the last layer.
"""

import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import node as nodes
from . import oci
from .build import EXTRAS, Programs
from .console import ClusterError, Console
from .oci import Entry, File, Folder, Link
from .packages import program
from .paths import Paths
from .plan import Node
from .shell import run

NOBODY = "65532:65532"
BUSYBOX = "localhost/busybox:1"
"""Has a shell and nslookup: for the training-operator's init containers, and for tests."""


@dataclass(frozen=True)
class OwnImages:
    """Names of the images made here; a rebuilt program has a new one."""

    pause: str
    coredns: str
    training_operator: str

    @classmethod
    def of(cls, programs: Programs) -> "OwnImages":
        """The names that follow from what was built."""

        def name(piece: str) -> str:
            return f"localhost/{piece}:{programs.image_tag(piece)}"

        return cls(name("pause"), name("coredns"), name("training-operator"))


def extra_image(piece: str, programs: Programs) -> str:
    """Name of the image of an extra piece."""
    return f"localhost/{piece}:{programs.image_tag(piece)}"


def write_own(paths: Paths, programs: Programs, extras: Collection[str] = ()) -> list[Path]:
    """Write the archives that are not there yet, and return all."""
    own = OwnImages.of(programs)
    paths.images.mkdir(parents=True, exist_ok=True)
    recipes: list[tuple[str, Sequence[Entry], dict[str, object]]] = [
        (own.pause, [File("pause", programs.path("pause"))], {"Entrypoint": ["/pause"]}),
        (
            own.coredns,
            [File("coredns", programs.path("coredns"))],
            {"Entrypoint": ["/coredns"], "User": NOBODY},
        ),
        (
            own.training_operator,
            [File("manager", programs.path("training-operator")), Folder("tmp", 0o1777)],
            {"Entrypoint": ["/manager"], "User": NOBODY},
        ),
        (BUSYBOX, busybox_entries(program("busybox")), {"Cmd": ["sh"], "Env": ["PATH=/bin"], "User": NOBODY}),
    ]
    for piece in EXTRAS:
        if piece.name in extras:
            manager = File("manager", programs.path(piece.programs[0]))
            start: dict[str, object] = {"Entrypoint": ["/manager"], "User": NOBODY}
            recipes.append((extra_image(piece.name, programs), [manager, Folder("tmp", 0o1777)], start))
    written: list[Path] = []
    for name, entries, config in recipes:
        target = paths.images / f"{name.removeprefix('localhost/').replace(':', '-')}.tar"
        if not target.exists():
            oci.write_archive(target, name, entries, config)
        written.append(target)
    return written


def busybox_entries(busybox: Path) -> list[Entry]:
    """A file system of busybox and a link for each of its commands."""
    applets = [name for name in run([busybox, "--list"]).split() if name != "busybox"]
    links = [Link(f"bin/{name}", "busybox") for name in applets]
    return [Folder("bin"), Folder("tmp", 0o1777), File("bin/busybox", busybox), *links]


def load(
    archives: Sequence[Path],
    targets: Sequence[Node],
    paths: Paths,
    programs: Programs,
    console: Console,
    name: str | None = None,
) -> None:
    """Bring the images of all archives to all nodes, the nodes side by side."""
    with ThreadPoolExecutor(max_workers=len(targets)) as pool:
        for done in [
            pool.submit(_load_into, archives, node, paths, programs, console, name) for node in targets
        ]:
            done.result()


def _load_into(
    archives: Sequence[Path], node: Node, paths: Paths, programs: Programs, console: Console, name: str | None
) -> None:
    for path in archives:
        started = time.monotonic()
        # Opened by every node's thread anew: a tar file has one reading position.
        with oci.open_archive(path, name) as archive:
            present = _images(node, paths, programs)
            if all(present.get(image) == digest for image, digest in archive.images.items()):
                continue
            size = _import(archive, node, paths, programs)
            names = ", ".join(archive.images)
            seconds = time.monotonic() - started
            console.step(f"{node.name} has {names} ({size / 1e6:.1f} MB sent in {seconds:.1f} s)")


def _ctr(node: Node, paths: Paths, programs: Programs, *words: str) -> tuple[list[str], dict[str, str]]:
    return nodes.command(node, paths, programs, [str(programs.path("ctr")), *words])


def _ask(node: Node, paths: Paths, programs: Programs, *words: str) -> str:
    command, environment = _ctr(node, paths, programs, *words)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{node.name}: ctr {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _images(node: Node, paths: Paths, programs: Programs) -> dict[str, str]:
    """Name to digest of what the node has."""
    rows = [line.split() for line in _ask(node, paths, programs, "images", "list").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def _import(archive: oci.Archive, node: Node, paths: Paths, programs: Programs) -> int:
    held = frozenset(_ask(node, paths, programs, "content", "list", "--quiet").split())
    command, environment = _ctr(node, paths, programs, "images", "import", "-")
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as importer:
        assert importer.stdin is not None
        assert importer.stdout is not None
        said: list[bytes] = []
        # Read beside writing: neither pipe may fill up.
        listener = threading.Thread(target=_drain, args=(importer.stdout, said), daemon=True)
        listener.start()
        try:
            size = archive.write_without(held, importer.stdin)
            importer.stdin.close()
        except BrokenPipeError:
            size = 0  # The importer ended first; its exit status and words say why.
        listener.join()
    if importer.returncode != 0:
        words = b"".join(said).decode(errors="replace").strip()
        raise ClusterError(f"{node.name}: importing {', '.join(archive.images)} failed: {words}")
    return size


def _drain(stream: IO[bytes], into: list[bytes]) -> None:
    into.extend(stream)
