"""A Kubernetes cluster as the tests see it: kubectl, helm, objects as dicts, a diagnosis when all hangs."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config

T = TypeVar("T")
Object = dict[str, Any]
"""A Kubernetes object as JSON."""

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATOR_NAMESPACE = "phitune-system"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Label of a namespace that admits only pods that Pod Security calls restricted."""


class CommandError(AssertionError):
    """A command ended with another code than 0; the message holds the command and what it printed."""

    def __init__(self, command: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(f"{' '.join(command)} ended with {returncode}\n{stdout}{stderr}")


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    timeout: float = 300,
) -> str:
    """Run a command and return its standard output; CommandError if its exit code is not 0."""
    done = subprocess.run(
        command,
        input=stdin,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise CommandError(command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """One cluster. Every command runs with its kubeconfig, never with the user's."""

    kubeconfig: Path
    kubectl_path: str
    helm_path: str
    state: Path | None
    """Folder of a local cluster; None for a cluster of somebody else's."""

    @property
    def is_local(self) -> bool:
        """Whether its nodes are on this machine, so that a test can reach into their processes."""
        return self.state is not None

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Run kubectl and return what it printed; CommandError (with its stderr) if it refused."""
        return run([self.kubectl_path, *args], stdin=stdin, env=self._env, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        """Run helm and return what it printed; CommandError (with its stderr) if it failed."""
        return run([self.helm_path, *args], env=self._env, timeout=timeout)

    @property
    def _env(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}

    @cached_property
    def api(self) -> client.ApiClient:
        """A client of the official library."""
        made: client.ApiClient = config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]
        return made

    def apply(self, *objects: Object, namespace: str | None = None) -> None:
        """`kubectl apply` of objects, all in one call."""
        where = ["--namespace", namespace] if namespace else []
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", *where, "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """One object, or None if there is none of that name."""
        where = ["--namespace", namespace] if namespace else []
        text = self.kubectl("get", kind, name, *where, "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """All objects of a kind in a namespace, by label if a selector is given."""
        chosen = ["--selector", selector] if selector else []
        text = self.kubectl("get", kind, "--namespace", namespace, *chosen, "-o", "json")
        items: list[Object] = json.loads(text)["items"]
        return items

    def patch(self, kind: str, name: str, namespace: str, patch: Object) -> None:
        """Merge-patch an object."""
        self.kubectl(
            "patch", kind, name, "--namespace", namespace, "--type", "merge", "--patch", json.dumps(patch)
        )

    @contextmanager
    def temporary_namespace(self, purpose: str) -> Iterator[str]:
        """Make a namespace that enforces `restricted`; have it removed with everything in it afterwards."""
        words = re.sub("[^a-z0-9]+", "-", purpose.lower())[:40].strip("-")
        name = f"{words}-{secrets.token_hex(3)}"
        self.apply(namespace_object(name))
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def operator_log(self, lines: int = -1) -> str:
        """The operator's log, of its present container."""
        selector = "app.kubernetes.io/name=phitune-operator"
        return self._tell(
            "logs", "--namespace", OPERATOR_NAMESPACE, "--selector", selector, "--tail", str(lines)
        )

    def diagnosis(self, namespace: str) -> str:
        """Everything that a person would look at first when a job in this namespace hangs."""
        parts = {
            "FineTuneJobs": self._tell("get", "ftj", "-n", namespace, "-o", "yaml"),
            "pods": self._tell("get", "pods,pytorchjobs,jobs,pvc", "-n", namespace, "-o", "wide"),
            "events": self._tell("get", "events", "-n", namespace, "--sort-by", ".lastTimestamp"),
            "trainer": self._tell(
                "logs", "-n", namespace, "-l", "app.kubernetes.io/name=phitune", "--prefix", "--tail", "30"
            ),
            "operator": self.operator_log(lines=60),
        }
        return "\n".join(f"===== {title}\n{text}" for title, text in parts.items())

    def _tell(self, *args: str) -> str:
        try:
            return self.kubectl(*args)
        except CommandError as refusal:
            return str(refusal)


def namespace_object(name: str) -> Object:
    """A namespace that enforces Pod Security `restricted`."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def wait_for(predicate: Callable[[], T | None], timeout: float, describe: Callable[[], str]) -> T:
    """Return the first truthy answer of `predicate`, asked twice a second.

    Args:
        timeout: Seconds.
        describe: Called once at the time-out; says what was waited for and what there is instead.

    Raises:
        AssertionError: it stayed falsy; the message is what `describe` returned.
    """
    end = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout:.0f} s: {describe()}")
        time.sleep(0.5)
