"""What the chaos tests share: a record of the cluster, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import rows
from chaos.catalogue import QUICK
from chaos.rows import Row
from chaos.tries import fault_of
from harness.history import Recorder
from harness.installed import Installed


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test-chaos` says where the report goes; `make test` writes none."""
    parser.addoption("--chaos-report", type=Path, metavar="FILE", help="write or renew this report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the ten that `make test` runs."""
    mine = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in mine:
        if isinstance(item, pytest.Function) and fault_of(item) in QUICK:
            item.add_marker("quick")


@pytest.fixture(scope="session")
def recorder(phitune: Installed) -> Iterator[Recorder]:
    """A record of the cluster."""
    if not phitune.cluster.is_local:
        pytest.skip("breaks nodes and the control plane, which takes a local cluster")
    recorder = Recorder(phitune.cluster)
    recorder.start()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """The rows so far; written at the end, where the command line says so."""
    made: list[Row] = []
    yield made
    path = request.config.getoption("--chaos-report", None)
    if path is not None:
        rows.write(made, path)
