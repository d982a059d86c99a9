"""An API server that gives the answers of a test, and a kubeconfig that names it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


def kubeconfig(folder: Path, server: str) -> str:
    """The file; its context is in namespace team-a."""
    file = folder / "kubeconfig"
    config = {
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "team-a"}}],
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)


@contextmanager
def api_server(status: int, body: Any, others: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Gives the same answer to everything but `others`, by the ends of their paths: `/pods`, `POST /pods`.

    An answer that is an iterator is sent piece by piece, as it comes.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = (answer for what, answer in (others or {}).items() if self._is(what))
            chosen = next(found, (status, body))
            code, answer = chosen(self.path) if callable(chosen) else chosen
            if isinstance(answer, Iterator):
                self._send_pieces(code, answer)
                return
            is_log = isinstance(answer, str) and code == 200
            text = answer.encode() if is_log else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _send_pieces(self, code: int, pieces: Iterator[str]) -> None:
            self.protocol_version = "HTTP/1.1"
            self.send_response(code)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in map(str.encode, pieces):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def _is(self, what: str) -> bool:
            method, _, end = what.rpartition(" ")
            return method in ("", self.command) and self.path.partition("?")[0].endswith(end)

        def log_message(self, *_: object) -> None:
            """Not for people."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
