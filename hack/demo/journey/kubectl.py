"""kubectl for the demo: one cluster, one namespace, answers as dicts."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from .console import DemoError


class Kubectl:
    """kubectl on one cluster and in one namespace."""

    def __init__(self, program: Sequence[str], kubeconfig: str, namespace: str) -> None:
        self._start = [*program, "--kubeconfig", kubeconfig, "--namespace", namespace]

    def argv(self, *args: str) -> list[str]:
        """The command line, with cluster and namespace."""
        return [*self._start, *args]

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        """Run it and return what it printed; DemoError with what it complained about."""
        # In a session of its own, so that a Ctrl-C at the terminal reaches the demo alone.
        done = subprocess.run(
            self.argv(*args), check=False, input=stdin, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode:
            raise DemoError(f"`kubectl {' '.join(args)}` said: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str) -> dict[str, Any] | None:
        """`kubectl get` of one object or of a list, as JSON; None where there is none of that name."""
        text = self("get", *args, "--ignore-not-found", "-o", "json")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def items(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """All objects of a kind with these labels."""
        found = self.get(kind, "--selector", selector)
        return list(found["items"]) if found else []

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """`kubectl apply` of one object."""
        self("apply", "-f", "-", stdin=json.dumps(manifest))
