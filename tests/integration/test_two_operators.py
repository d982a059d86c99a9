"""Of two operators one works, and the other takes over when that one is lost or stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster, wait_for
from harness.crd import installed_crd
from harness.ports import free_port

LEASE = "two-operators"


class Operator:
    """A process that serves one namespace while it holds the Lease."""

    def __init__(self, cluster: Cluster, namespace: str, log: Path) -> None:
        self.log = log
        port = str(free_port())
        options = ["--trainer-image", "localhost/none:1", "--health-port", port]
        options += [f"--namespace={namespace}", f"--lease={namespace}/{LEASE}"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "phitune_operator.main", *options],
                env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
                stderr=output,
            )

    def said(self, words: str) -> bool:
        lines = self.log.read_text().splitlines()
        return any(words in json.loads(line)["message"] for line in lines if line.endswith("}"))

    def wait_until_it_says(self, words: str, seconds: float) -> float:
        began = time.monotonic()
        wait_for(lambda: self.said(words) or None, seconds, self.log.read_text)
        return time.monotonic() - began


@pytest.fixture
def operators(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[list[Operator]]:
    with installed_crd(cluster):
        first = Operator(cluster, namespace, tmp_path / "first")
        started = [first]
        try:
            first.wait_until_it_says("serving", 60)
            started.append(Operator(cluster, namespace, tmp_path / "second"))
            started[1].wait_until_it_says("waiting for Lease", 60)
            yield started
        finally:
            for operator in started:
                operator.process.kill()
                operator.process.wait(30)


def test_the_second_takes_over_in_time_when_the_first_is_killed(operators: list[Operator]) -> None:
    first, second = operators
    assert not second.said("serving")
    first.process.kill()
    assert second.wait_until_it_says("serving", 60) < 25, "20 s, and a little for this machine"


def test_the_second_works_at_once_when_the_first_stops(
    operators: list[Operator], cluster: Cluster, namespace: str
) -> None:
    first, second = operators
    first.process.terminate()
    assert first.process.wait(30) == 0
    second.wait_until_it_says("serving", 12)
    lease: Any = cluster.get("lease", LEASE, namespace)
    assert lease["spec"]["leaseTransitions"] >= 2


def test_a_holder_whose_lease_is_taken_ends_and_says_why(
    operators: list[Operator], cluster: Cluster, namespace: str
) -> None:
    first, _ = operators
    cluster.patch("lease", LEASE, namespace, {"spec": {"holderIdentity": "somebody"}})
    assert first.process.wait(30) == 1
    assert first.said("the Lease was taken by somebody")
