"""A user of a namespace, with no rights but those that are named, and commands in that user's name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.cluster import Cluster, CommandError, Object, run


@dataclass(frozen=True)
class User:
    """Runs `kubectl finetune` as a stranger would: by kubectl, with a kubeconfig of their own."""

    cluster: Cluster
    folder: Path
    """Where the commands run; holds kubeconfig and the plugin's executable."""

    @classmethod
    def of(cls, cluster: Cluster, namespace: str, role: Object, folder: Path) -> User:
        """A service account that has this role, in a kubeconfig whose context names the namespace."""
        name = "user"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": role["metadata"]["name"],
            },
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        cluster.apply(role, account, binding, namespace=namespace)
        token = cluster.kubectl("create", "token", name, "-n", namespace).strip()
        text = cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        config = json.loads(text)
        config["users"] = [{"name": name, "user": {"token": token}}]
        config["contexts"][0]["context"] |= {"user": name, "namespace": namespace}
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        plugin = folder / "kubectl-finetune"
        plugin.write_text(f'#!/bin/sh\nexec {sys.executable} -m phitune_cli.finetune "$@"\n')
        plugin.chmod(0o755)
        return cls(cluster, folder)

    def finetune(self, *args: str, timeout: float = 180) -> str:
        """Run `kubectl finetune` and return what it printed; CommandError for another code than 0."""
        return run(self._command(args), env=self._env, cwd=self.folder, timeout=timeout)

    def phitune(self, *args: str) -> str:
        """Run `phitune` and return what it printed; CommandError for another code than 0."""
        return run([sys.executable, "-m", "phitune_cli.main", *args], cwd=self.folder)

    def refused(self, *args: str) -> tuple[int, str]:
        """Exit code and words of a `kubectl finetune` that does not do it."""
        try:
            said = self.finetune(*args)
        except CommandError as error:
            return error.returncode, error.stderr
        raise AssertionError(f"it was done: {said}")

    def start(self, *args: str, output: Path) -> subprocess.Popen[bytes]:
        """Start `kubectl finetune`, standard output and error into a file; kubectl becomes the plugin."""
        with output.open("wb") as file:
            return subprocess.Popen(
                self._command(args),
                env={**os.environ, **self._env},
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def interrupted(self, process: subprocess.Popen[bytes]) -> int:
        """Press Ctrl-C; the exit code."""
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=60)

    def _command(self, args: Sequence[str]) -> list[str]:
        return [self.cluster.kubectl_path, "finetune", *args]

    @property
    def _env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), os.environ["PATH"]])
        return {"KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": path}
