"""A hub on loopback: it speaks the protocol of the real one as far as it is needed, and has its faults.

Small files are answered at once, large ones (those named in `lfs`) by a redirect to a second server, as the
real hub sends to its content delivery network. Pushes are taken in `hub_uploads.py`. Every request is kept.
A test says what shall go wrong.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from harness.hub_uploads import Storage, Uploads, blob

COMMIT = "a" * 40
TOKEN = "hf_right"


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None


@dataclass
class Repo:
    """A repository: its files at each commit."""

    files: dict[str, bytes]
    commit: str = COMMIT
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    lfs: set[str] = field(default_factory=set)
    is_gated: bool = False
    is_private: bool = False
    tells_sizes: bool = True
    tells_checksums: bool = True

    def large(self, name: str) -> bool:
        return name in self.lfs or name.endswith((".safetensors", ".parquet"))


@dataclass
class Fault:
    """What happens to the next requests whose path ends like this."""

    ends: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes, sent or taken, after which the connection is closed, though more were promised."""
    hold: threading.Event | None = None
    """What it waits for before it is closed."""
    ignores_range: bool = False
    corrupts: bool = False


class FakeHub:
    """The hub and its delivery network."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        """By "models/owner/name" and "datasets/owner/name"."""
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens = {TOKEN}
        """Tokens that are accepted."""
        self.members = {TOKEN}
        """Tokens whose owners have accepted the licence of gated repositories."""
        self.storage = Storage()
        """Large files that were pushed."""
        self.gate: threading.Event | None = None
        """Bytes of large files wait for it."""
        self._servers = [_serve(_Server(self, part), certificate) for part in ("hub", "cdn")]
        self.scheme = "http" if certificate is None else "https"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://localhost:{self._servers[0].server_address[1]}"

    @property
    def cdn(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._servers[1].server_address[1]}"

    def model(self, name: str = "team/model", **files: Any) -> Repo:
        """Add a model repository."""
        repo = self.repos[f"models/{name}"] = Repo(**files)
        return repo

    def dataset(self, name: str, **files: Any) -> Repo:
        """Add a data set repository."""
        repo = self.repos[f"datasets/{name}"] = Repo(**files)
        return repo

    def fetched(self, name: str) -> list[Request]:
        """Requests for the bytes of a file."""
        end = f"/{name}"
        return [
            request
            for request in self.requests
            if request.method == "GET" and request.path.endswith(end) and request.path.startswith("/cdn")
        ] or [request for request in self.requests if request.method == "GET" and request.path.endswith(end)]

    def fault_for(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and path.endswith(fault.ends):
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: FakeHub, part: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.part = part


def _serve(server: ThreadingHTTPServer, certificate: Path | None = None) -> ThreadingHTTPServer:
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(Uploads, BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def note(self) -> tuple[str, Request, Fault | None]:
        """Keep the request; its path, itself, and what shall go wrong with it."""
        path = unquote(urlsplit(self.path).path)
        request = Request(self.command, path, {name.title(): value for name, value in self.headers.items()})
        self.server.hub.requests.append(request)
        return path, request, self.server.hub.fault_for(path)

    def answer(self) -> None:
        path, request, fault = self.note()
        if fault is not None and fault.status is not None:
            self.send(fault.status, b"{}", fault.headers)
        elif self.server.part == "cdn":
            _, _, kind, owner, name, *rest = path.split("/")
            repo = self.server.hub.repos[f"{kind}/{owner}/{name}"]
            if self.server.hub.gate is not None:
                self.server.hub.gate.wait(30)
            self.send_file(repo.files["/".join(rest)], {}, fault)
        elif path.startswith("/api/"):
            self.describe(path, request)
        else:
            self.resolve(path, request, fault)

    def repo_for(self, key: str, request: Request) -> Repo | None:
        """The repository, or None where an error was sent."""
        repo, token = self.server.hub.repos.get(key), request.token
        if token is not None and token not in self.server.hub.tokens:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.is_private and token is None):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.is_gated and token not in self.server.hub.members:
            self.refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        else:
            return repo
        return None

    def describe(self, path: str, request: Request) -> None:
        key, _, revision = path.removeprefix("/api/").partition("/revision/")
        repo = self.repo_for(key, request)
        if repo is None:
            return
        repo = self.server.hub.repos.get(f"{key}@{revision}", repo)
        if revision not in {*repo.refs, repo.commit, ""}:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        with_sizes = "blobs" in parse_qs(urlsplit(self.path).query) and repo.tells_sizes
        siblings = [{"rfilename": name, **(_about(repo, name) if with_sizes else {})} for name in repo.files]
        about = {
            "id": key.partition("/")[2],
            "sha": repo.commit,
            "private": repo.is_private,
            "siblings": siblings,
        }
        self.send(200, json.dumps(about).encode())

    def resolve(self, path: str, request: Request, fault: Fault | None) -> None:
        place, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        key = place if place.startswith("datasets/") else f"models/{place}"
        repo = self.repo_for(key, request)
        if repo is None:
            return
        if revision != repo.commit:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif name not in repo.files:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif repo.large(name):
            about = {
                "X-Repo-Commit": repo.commit,
                "X-Linked-Etag": f'"{hashlib.sha256(repo.files[name]).hexdigest()}"',
                "X-Linked-Size": str(len(repo.files[name])),
                "Location": f"{self.server.hub.cdn}/cdn/{key}/{quote(name)}",
            }
            self.send(302, b"", about)
        else:
            etag = {"X-Repo-Commit": repo.commit, "ETag": f'"{blob(repo.files[name])}"'}
            self.send_file(repo.files[name], etag, fault)

    def send_file(self, content: bytes, headers: Mapping[str, str], fault: Fault | None) -> None:
        fault = fault or Fault("")
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked is not None and not fault.ignores_range:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = content[start:]
        if fault.corrupts:
            body = body.translate(bytes(byte ^ 1 for byte in range(256)))
        self.send(status, body, headers, fault)

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.cut_after is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.cut_after])
        self.wfile.flush()
        if fault.hold is not None:
            fault.hold.wait(30)
        self.close_connection = True


def _about(repo: Repo, name: str) -> dict[str, Any]:
    content = repo.files[name]
    if not repo.tells_checksums:
        return {"size": len(content)}
    if not repo.large(name):
        return {"size": len(content), "blobId": blob(content)}
    checksum = hashlib.sha256(content).hexdigest()
    lfs = {"sha256": checksum, "size": len(content), "pointerSize": 134}
    return {"size": len(content), "blobId": "b" * 40, "lfs": lfs}


@contextmanager
def forward_proxy(refuses: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A proxy, its address and what it was asked for: absolute addresses, and CONNECT host:port."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.path}")
            if refuses:
                self.send_error(407)
                return
            host, _, port = self.path.partition(":")
            with socket.create_connection((host, int(port))) as there:
                self.send_response(200)
                self.end_headers()
                _copy(self.connection, there)
            self.close_connection = True

        def do_GET(self) -> None:
            asked.append(self.path)
            parts = urlsplit(self.path)
            connection = HTTPConnection(parts.hostname or "", parts.port)
            connection.request("GET", f"{parts.path}?{parts.query}", headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = _serve(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    ends = {one: other, other: one}
    with suppress(ConnectionError):
        while True:
            readable, _, _ = select.select(list(ends), [], [], 10)
            for end in readable:
                if not (data := end.recv(2**16)):
                    return
                ends[end].sendall(data)
            if not readable:
                return


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost with its key, and that of the authority that signed it; by openssl."""
    ca, leaf = folder / "ca.crt", folder / "server.pem"
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    sign = ["openssl", "x509", "-req", "-CAcreateserial", "-CA", str(ca), "-CAkey", str(folder / "ca.key")]
    commands = [
        [*new, "-x509", "-subj", "/CN=our own", "-keyout", str(folder / "ca.key"), "-out", str(ca)],
        [*new, "-subj", "/CN=localhost", "-keyout", str(folder / "key"), "-out", str(folder / "request")],
        [*sign, "-in", str(folder / "request"), "-extfile", str(extensions), "-out", str(folder / "crt")],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
    leaf.write_text((folder / "crt").read_text() + (folder / "key").read_text())
    return leaf, ca
