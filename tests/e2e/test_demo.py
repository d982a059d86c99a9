"""`make demo`: interrupted while it trains, to its end, and on a cluster that somebody has already."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.cluster import REPOSITORY, Cluster, run
from harness.installed import Installed
from harness.machine import MARK, traces, wait_until_gone
from harness.provision import hack_cluster, local
from harness.registry import registry_of

pytestmark = pytest.mark.timeout(900)

TRAINS = re.compile(r"rank 0 \| step +[1-9]")
NOTHING: Mapping[str, str] = {}
LEARNED = re.compile(r"^ +0\.9\d\d  after$", re.MULTILINE)


@pytest.fixture(scope="module")
def state(cluster: Cluster) -> Iterator[Path]:
    """Where the demo has a cluster of its own, beside that of the tests; it serves both tests here."""
    if cluster.state is None:
        pytest.skip("the demo's local cluster needs this machine, and KUBECONFIG names another")
    state = cluster.state.with_name(f"{cluster.state.name}-demo")
    run(hack_cluster("down", "--state", str(state)), timeout=300)
    yield state
    run(hack_cluster("down", "--state", str(state)), timeout=300)


def demo(*options: str, mark: str = "", environment: Mapping[str, str] = NOTHING) -> subprocess.Popen[str]:
    """Start the demo in a session of its own, as a terminal does."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "REGISTRY")}
    return subprocess.Popen(
        [sys.executable, "hack/demo", *options],
        cwd=REPOSITORY,
        env={**inherited, **environment, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said_until(process: subprocess.Popen[str], pattern: re.Pattern[str]) -> str:
    """What it says, up to a line that matches; AssertionError if it ends before."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if pattern.search(line):
            return said
    raise AssertionError(f"ended with {process.wait()} and no line like {pattern.pattern}:\n{said}")


def test_demo_interrupted_in_training_leaves_nothing_and_then_goes_to_its_end(
    state: Path, phitune: Installed
) -> None:
    mark = secrets.token_hex(4)
    before = traces(mark)
    with demo("--state", str(state), mark=mark) as first:
        said = said_until(first, TRAINS)
        os.killpg(first.pid, signal.SIGINT)
        said += first.communicate(timeout=300)[0]
    assert first.returncode == 130, said
    assert "SIGINT: tidying up what this run started" in said
    assert "the next `make demo` goes on from there" in said
    assert "Traceback" not in said
    wait_until_gone(before, mark)

    with demo("--state", str(state), mark=mark) as second:
        said = second.communicate(timeout=600)[0]
    assert second.returncode == 0, said
    assert LEARNED.search(said), said
    assert not [trace for trace in traces(mark) - before if trace.startswith("process ")], "nobody watches on"
    volume = re.search(rf"^  ({state}/volumes/\S+)$", said, re.MULTILINE)
    assert volume, said
    assert list(Path(volume[1]).glob("runs/phitune-demo/digits/*/export/merged/*.safetensors"))


def test_demo_runs_on_a_cluster_of_the_users_own_with_its_registry(
    state: Path, phitune: Installed, tmp_path: Path
) -> None:
    run(hack_cluster("up", "--state", str(state), "--nodes", "2"), timeout=300)
    theirs = local(state)
    with registry_of(theirs, tmp_path) as registry:
        environment = {**registry.environment, "PATH": f"{state / 'bin'}:{os.environ['PATH']}"}
        options = ["--kubeconfig", str(theirs.kubeconfig), "--registry", registry.address]
        with demo(*options, environment=environment) as process:
            said = process.communicate(timeout=800)[0]
        assert process.returncode == 0, said
        assert LEARNED.search(said), said
        assert "the training-operator is left as it is" in said
        pods = theirs.list("pods", "phitune-demo", "phitune.dev/job=digits")
    images = {pod["spec"]["containers"][0]["image"].rpartition(":")[0] for pod in pods}
    assert images == {f"{registry.address}/phitune/trainer"}
