"""The operator as a process of this machine, with the rights that the chart gives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.cluster import OPERATOR_NAMESPACE, Cluster, wait_for
from harness.installed import RELEASE
from harness.ports import free_port

READY = 120.0
"""Seconds that a busy machine may take until an operator serves."""


class OperatorProcess:
    """An operator that serves some namespaces."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *,
        server: str,
        trainer_image: str,
        namespaces: Sequence[str],
        options: Sequence[str] = (),
        program: Sequence[str] = ("-m", "phitune_operator.main"),
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._kubeconfig = folder / "kubeconfig"
        self._kubeconfig.write_text(json.dumps(kubeconfig(server, token(cluster))))
        self.log = folder / "log"
        self._command = [sys.executable, *program, "--trainer-image", trainer_image, *options]
        self._command += [f"--namespace={namespace}" for namespace in namespaces]
        self._environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.num_starts = 0
        self.health_port = 0
        """Where the process that was started last answers probes and Prometheus."""
        self._is_over = threading.Event()
        self._kubelet = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """Start it, and start it again whenever it has ended, as a kubelet does."""
        self._start()
        self._kubelet.start()

    def _keep(self) -> None:
        while not self._is_over.wait(0.5):
            if self.process is not None and self.process.poll() is not None:
                self._start()

    def _start(self) -> None:
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), **self._environment}
        self.health_port = free_port()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._command, "--health-port", str(self.health_port)],
                env=environment,
                stderr=output,
            )
        self.num_starts += 1

    def wait_until_it_serves(self, *, again: int = 0) -> None:
        """Wait until it has begun to serve more than so many times."""
        wait_for(lambda: self.said("serving") > again, READY, self.log.read_text)

    def said(self, words: str) -> int:
        """How many lines of its log have these words."""
        lines = self.log.read_text().splitlines()
        return sum(words in json.loads(line)["message"] for line in lines if line.endswith("}"))

    def kill(self) -> None:
        """End the process, and only that."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def end(self) -> None:
        """End it as the loss of its node does: nobody starts it again."""
        self._is_over.set()
        if self._kubelet.is_alive():
            self._kubelet.join(30)
        self.kill()


def token(cluster: Cluster) -> str:
    """A token of the operator's service account."""
    return cluster.kubectl(
        "create", "token", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--duration", "6h"
    ).strip()


def kubeconfig(server: str, bearer: str) -> dict[str, object]:
    """A kubeconfig with one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "only",
        "clusters": [{"name": "only", "cluster": {"server": server}}],
        "users": [{"name": "only", "user": {"token": bearer}}],
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
    }
