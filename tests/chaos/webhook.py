"""An admission webhook on this machine that says no to every gang of a namespace, or says nothing at all."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from harness.cluster import Cluster, Object
from localkube.paths import Paths

TIMEOUT = 5
"""Seconds that the API server waits for its answer."""


class Webhook:
    """Asked about every PyTorchJob of a namespace before it is created, until it is closed."""

    def __init__(self, cluster: Cluster, namespace: str, *, hangs: bool = False) -> None:
        assert cluster.state is not None
        self._cluster, self._namespace = cluster, namespace
        self._address = str(Paths(cluster.state).load_running().host_address)
        self._name = f"{namespace}.chaos.example"
        self._hangs = hangs
        self._is_over = threading.Event()
        self.num_asked = 0

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = make_certificate(Path(folder), self._address)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            bundle = base64.b64encode(certificate.read_bytes()).decode()
        self._server = ThreadingHTTPServer((self._address, 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._cluster.apply(self._configuration(bundle))
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.kubectl("delete", "validatingwebhookconfiguration", self._name)
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def _configuration(self, bundle: str) -> Object:
        port = self._server.server_address[1]
        gangs = {"apiGroups": ["kubeflow.org"], "apiVersions": ["v1"], "resources": ["pytorchjobs"]}
        chosen = {"matchLabels": {"kubernetes.io/metadata.name": self._namespace}}
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self._name},
            "webhooks": [
                {
                    "name": self._name,
                    "clientConfig": {"url": f"https://{self._address}:{port}/", "caBundle": bundle},
                    "rules": [{**gangs, "operations": ["CREATE"]}],
                    "namespaceSelector": chosen,
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": TIMEOUT,
                }
            ],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.num_asked += 1
                if webhook._hangs:
                    webhook._is_over.wait()
                    return
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps({**review, "response": refusal(review["request"]["uid"])}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def refusal(uid: str) -> Object:
    """A no."""
    return {"uid": uid, "allowed": False, "status": {"code": 403, "message": "no gangs on a Saturday"}}


def make_certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate for this address, signed by itself, and its key."""
    certificate, key = folder / "crt", folder / "key"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=chaos"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new, *files, "-addext", f"subjectAltName=IP:{address}"], check=True, capture_output=True)
    return certificate, key
